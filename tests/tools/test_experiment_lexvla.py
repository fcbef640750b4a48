"""The conditions and the language of `tools.experiments.lexvla` are what they are said to be."""

import numpy as np

from tools.experiments import lexvla
from tools.experiments.lexvla import DENSE, L1, LEX, NAMED, PLAIN, THINGS, USED, WORDS


def test_conditions_differ_in_what_their_names_say():
    made = {n: lexvla.config(n, 8, 16) for n in lexvla.CONDITIONS}
    sparse = {n: c["objectives"].get("sparsity", {}).get("penalty") for n, c in made.items()}
    assert sparse == {PLAIN: None, LEX: "flops", L1: "l1", DENSE: None}
    assert {n: c["model"]["parts"]["text_project"]["dim"] for n, c in made.items()}[DENSE] == 64
    assert all(c["model"]["parts"]["image_project"]["dim"] == WORDS for n, c in made.items() if n != DENSE)


def test_captions_name_what_is_shown_among_words_that_say_nothing():
    train, held_out, shown = lexvla.scenes(0, 200)
    ids, there = (held_out["text"][key][:, 0] for key in ("ids", "valid"))
    named = [set(row[valid]) & set(things + USED) for row, valid, things in zip(ids, there, shown)]
    assert min(map(len, named)) == NAMED and len(train["row"]) == 200
    assert 0.7 < np.mean([(np.arange(USED)[:, None] == row[valid]).any(1) for row, valid in zip(ids, there)]) < 0.9
    counts = np.bincount(shown.ravel(), minlength=THINGS)
    assert counts[:10].sum() > 3 * counts[-10:].sum(), "some things are often there, some rarely"
