"""Phrases beside the mean of their words: the cosine, what is read of examples and of a folder, and what is refused."""

import json

import numpy as np
import pytest
from small_towers import evaluated

from configs.systems import semantic_composition
from pretrain.evals import base, composition
from pretrain.evals.features import embed_texts
from pretrain.evals.metrics import auroc, spearman

RATED = [("red bus", 1), ("red herring", 0), ("blue moon", 0), ("green tree", 1), ("bus", 1), ("old house", 1)]


@pytest.fixture(scope="module")
def made():
    return evaluated(semantic_composition.get_config("tiny"))


def folder(path, rows):
    (path / "test.jsonl").write_text("".join(json.dumps(dict(phrase=p, literal=n)) + "\n" for p, n in rows))
    return dict(path=str(path), splits=("test",))


def test_the_cosine_equals_numpy(made, tmp_path):
    held, params = made
    task = composition.Evaluator(held, ("text",), **folder(tmp_path, RATED))
    base.check(task, held, "final_evals.composition")
    found = dict(task.run(params))
    phrases = [p for p, _ in RATED if " " in p]
    of = lambda texts: np.asarray(embed_texts(held, params, "text", texts), np.float64)
    means = [of(p.split()).sum(0) for p in phrases]
    similarity = np.array([[m @ z / np.linalg.norm(m) / np.linalg.norm(z) for z in of(phrases)] for m in means])
    wanted, rating = np.diagonal(similarity), [n for p, n in RATED if " " in p]
    assert found["text/phrases"] == 5 and found["text/cosine"] == pytest.approx(wanted.mean(), abs=1e-5)
    others = (similarity.sum() - wanted.sum()) / 20
    assert found["text/cosine"].chance == pytest.approx(others, abs=1e-5) and found["text/R@1"].chance == 0.2
    assert found["text/R@1"] == pytest.approx((similarity.argmax(1) == np.arange(5)).mean())
    assert found["text/spearman"] == pytest.approx(spearman(wanted, rating))
    assert (
        found["text/AUROC"] == pytest.approx(auroc(wanted, np.array(rating) == 1)) and found["text/AUROC"].chance == 0.5
    )
    assert found["text/AUROC, lower limit"] <= found["text/AUROC"] <= found["text/AUROC, upper limit"]


def test_phrases_of_examples_have_no_rating(made):
    held, params = made
    task = composition.Evaluator(held, ("text",), phrases="name:en")
    base.check(task, held, "final_evals.composition")
    found = dict(task.run(params))
    assert found.keys() == {"text/phrases", "text/cosine", "text/R@1"} and found["text/phrases"] > 100
    ((title, figure),) = task.figures(params, None)
    assert "mean of its words" in title and len(figure.axes[0].get_yticklabels()) == 16


def test_composed_vectors_have_unit_length():
    a, b = np.eye(3)[0], np.eye(3)[1]
    np.testing.assert_allclose(composition.compose([[a, b], [a]]), [[0.5**0.5, 0.5**0.5, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    "rows, keys, message",
    [
        (RATED[:1], {}, r"composition.path=.*: 1 phrases of several words in \('test',\)"),
        (RATED[1:3], {}, r"composition.fields=.*: 'literal' is 0.0 of every phrase"),
        (RATED, dict(fields=("phrase", "rating")), r"composition.fields=.*: line 1 of \('test',\) lacks 'rating'"),
        (RATED, dict(phrases="group"), r"composition.path=.*: phrases='group': give a folder of rated phrases"),
        (RATED, dict(path="", phrases="note", splits=("val",)), r"composition.phrases='note': 0 phrases of several"),
        (RATED, dict(modalities=("image",)), r"composition.modalities=.*: has no text tokenizer; there are text"),
        (RATED, dict(splits=("val",)), r"final_evals.composition: split='val': .* has test"),
    ],
)  # fmt: skip
def test_what_it_cannot_compose_is_named(made, tmp_path, rows, keys, message):
    held, _ = made
    with pytest.raises(ValueError, match=message):
        task = composition.Evaluator(held, **(dict(modalities=("text",)) | folder(tmp_path, rows) | keys))
        base.check(task, held, "final_evals.composition")
