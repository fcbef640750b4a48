"""The language of `tools.experiments.grounded_sentences`, its scores, and what its conditions differ in."""

import numpy as np
import pytest

from data_pipeline.text_tokenizers.characters import Tokenizer
from tools.experiments import grounded_sentences as grounded


def test_sentences_name_what_their_scenes_hold_by_words_of_their_own():
    notions, words = grounded.language(0)
    assert words.shape == (len(notions), grounded.SYNONYMS) and len(set(words.ravel())) == words.size
    meaning = {word: n for n, own in enumerate(words) for word in own}
    _, held_out, about, said = grounded.scenes(0, 64)
    sentences = np.asarray(held_out["text"]["ids"])
    read = [[Tokenizer().decode(view).split() for view in scene] for scene in sentences]
    assert [scene[0] for scene in read] == said
    for scene, mean in zip(read, about):
        assert len({tuple(sorted(meaning[w] for w in view)) for view in scene}) == 1
        np.testing.assert_allclose(notions[[meaning[w] for w in scene[0]]].sum(0), mean, atol=1e-12)
    assert len({tuple(view) for scene in read for view in scene}) > 3 * len(read), "in other words"
    assert (held_out["text"]["ids"][..., -1] <= 3).all(), "none is cut"


def test_words_in_common():
    found = grounded.in_common([["a", "b", "c"], ["c", "b", "d"], ["x", "y", "z"]])
    np.testing.assert_allclose(found, [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])


def test_agreement_is_of_the_order_of_pairs():
    about = np.random.default_rng(0).normal(size=(40, 8))
    unit = about / np.linalg.norm(about, axis=1, keepdims=True)
    assert grounded.agreement((unit @ unit.T) ** 3, about) == pytest.approx(1)
    assert grounded.agreement(-(unit @ unit.T), about) == pytest.approx(-1)


def test_conditions_differ_in_the_loss_alone():
    made = {name: grounded.config(name, 8, 8) for name in grounded.TRAINED}
    losses = [c.pop("objectives") for c in made.values()]
    assert len({str(c) for c in made.values()}) == 1 and len({str(loss) for loss in losses}) == len(grounded.TRAINED)
    assert losses[0]["triplet"]["reduction"] == "pairs" and losses[0]["triplet"]["negatives"] == "sum"
    gated = {gate.condition for gate in grounded.GATES}
    assert gated == {grounded.HINGE, grounded.SOFT}, "the hardest negative is only reported"
