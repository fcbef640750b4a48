"""Generated things against what they are, on a toy network."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from matplotlib import pyplot as plt
from toy import Toy

from pretrain import build
from pretrain.evals import generation, made
from pretrain.evals.base import Context
from pretrain.evals.pictures import Images
from pretrain.generate.chain import Generator, Target


class Grey:
    """Ids 0 … 19 as greys, two columns of them."""

    def decode(self, ids):
        return (np.asarray(ids)[:, :, None, None] * 12).astype(np.uint8).repeat(2, 2)


@pytest.fixture(autouse=True)
def tokenizers(monkeypatch):
    monkeypatch.setattr(Context, "tokenizers", {"fsq": Grey()})


@pytest.fixture(scope="module")
def toy():
    return Toy()


def test_what_is_made_is_scored_beside_what_is_made_of_others(toy):
    pairs = (("depth+caption", "image", "l1"), ("image", "caption", "f1"))
    task = generation.Evaluator(toy, pairs, splits=("test",), examples=6, steps=2)
    task.check()
    found = dict(task.run(toy.params))
    assert list(found) == ["depth+caption→image/l1", "image→caption/f1"]
    batch = next(iter(toy.batches("test", 64)))
    batch = jax.tree.map(lambda x: x[np.linspace(0, 23, 6).round().astype(int)], batch)
    model = Generator(toy.graph, toy.params["model"], tiny.MODALITIES)
    ids = model(batch, ["depth", "caption"], [Target("image", steps=2, temperature=0.4)])["image"]["ids"]
    made, truth = (Grey().decode(x).astype(float) for x in (ids, batch["image"]["ids"]))
    assert found["depth+caption→image/l1"] == pytest.approx(np.abs(made - truth).mean() / 255)
    others = np.concatenate([truth[-1:], truth[:-1]])
    assert found["depth+caption→image/l1"].chance == pytest.approx(np.abs(made - others).mean() / 255)
    figures = list(task.figures(toy.params, Images(toy)))
    assert [title for title, _ in figures] == ["depth+caption → image"]
    plt.close("all")


def test_several_samples_are_their_mean(toy):
    task = generation.Evaluator(toy, (("depth", "image", "l1"),), splits=("test",), examples=4, steps=2, samples=3)
    batch = task._batch("depth", "image")
    model = Generator(toy.graph, toy.params["model"], tiny.MODALITIES)
    how = [Target("image", steps=2, temperature=0.4)]
    draws = [Grey().decode(model(batch, ["depth"], how, sample=s)["image"]["ids"]) for s in range(3)]
    assert (draws[0] != draws[1]).any()
    np.testing.assert_allclose(task._made(toy.params, batch, "depth", "image", "l1"), np.mean(draws, 0), rtol=1e-6)
    votes = task._made(toy.params, batch, "depth", "image", "miou")
    assert set(np.unique(votes)) <= set(np.unique(draws)), "classes have no mean"
    for i in np.ndindex(votes.shape):
        counts = [sum(d[i] == v for d in draws) for v in {int(d[i]) for d in draws}]
        assert sum(d[i] == votes[i] for d in draws) == max(counts)


class Words:
    """Ids as words w40 … w79."""

    def decode(self, ids):
        return " ".join(f"w{i}" for i in ids if i != tiny.EOS)


class Source(list):
    fields = frozenset({"row", "map"})


def test_against_what_the_examples_hold(toy, monkeypatch):
    """`@FIELD`: pictures of another field than the tokens are of, and every one of several texts."""
    test, rng = next(iter(toy.batches("test", 64))), np.random.default_rng(0)
    maps = {row: rng.integers(0, 256, (16, 2, 1), np.uint8) for row in test["row"].tolist()}
    held = Source({"row": np.int64(row), "map": m} for row, m in maps.items())
    monkeypatch.setitem(toy.__dict__, "source", lambda *_: held)
    monkeypatch.setattr(build, "text_tokenizers", lambda _: {"text": Words()})
    monkeypatch.setitem(made.METRICS, "cider", made.Metric(lambda *seen: texts.append(seen) or 0.5, "words"))
    texts, options = [], dict(splits=("test",), examples=6, steps=2)
    task = generation.Evaluator(toy, (("depth", "image", "l1@map"), ("image", "caption", "cider@words")), **options)
    task.check()
    found = dict(task.run(toy.params))
    batch = task._batch("depth", "image")
    pictures = task._made(toy.params, batch, "depth", "image", "l1")
    truth = np.stack([maps[row] for row in batch["row"].tolist()])
    assert found["depth→image/l1@map"] == pytest.approx(np.abs(pictures - truth).mean() / 255)
    (written, true), (_, others) = texts
    assert all(t.startswith("w") for t in written)
    assert true == [toy.facts(("test",))[row]["words"] for row in batch["row"].tolist()] and others[1] == true[0]
    for pair, message in (
        (("depth", "image", "l1@mask"), "field='mask' is unknown: use one of map, row"),
        (("image", "caption", "cider@title"), "generation.pairs: 'title': row 6000 of .* has no such field"),
    ):
        with pytest.raises(ValueError, match=message):
            generation.Evaluator(toy, (pair,), **options).check()
    held[5].pop("map")
    with pytest.raises(ValueError, match=r"'l1@map': row \d+ of \('test',\) has no 'map'"):
        dict(generation.Evaluator(toy, (("depth", "image", "l1@map"),), splits=("test",), examples=24).run(toy.params))


def test_usual_metrics_of_known_modalities(toy, monkeypatch):
    names = {"image": "tok_rgb@224", "depth": "tok_depth@224", "label": "det"}
    known = tuple(dataclasses.replace(m, name=names.get(m.name, m.name)) for m in tiny.MODALITIES)
    monkeypatch.setattr(toy.run, "modalities", known)
    monkeypatch.setattr(build, "text_tokenizers", lambda _: {"text": Words()})
    monkeypatch.setattr(generation, "_installed", lambda metric: True)
    pairs = generation.Evaluator.default(toy)["pairs"]
    assert ("tok_rgb@224", "tok_depth@224", "delta1") in pairs and ("caption", "det", "ap") in pairs
    monkeypatch.setattr(generation, "_installed", lambda metric: metric != "ap")
    assert "det" not in [target for _, target, _ in generation.Evaluator.default(toy)["pairs"]]
    monkeypatch.setitem(toy.__dict__, "readable", tuple(m.name for m in known))
    with pytest.raises(ValueError, match=r"ap needs pycocotools: pip install 'tokenloom\[coco\]'"):
        generation.Evaluator(toy, (("tok_rgb@224", "det", "ap"),)).check()


def test_defaults_and_what_is_refused(toy, monkeypatch):
    monkeypatch.setattr(build, "text_tokenizers", lambda _: {})
    assert generation.Evaluator.default(toy)["pairs"] == [
        ("image", "depth", "l1"),
        ("image", "caption", "f1"),
        ("caption", "image", "l1"),
        ("caption", "label", "f1"),
    ]
    for pairs, message in (
        ((("smell", "image", "l1"),), "no modality 'smell'"),
        ((("depth", "smell", "l1"),), "'smell' is no grid or sequence"),
        ((("image", "image", "l1"),), "'image' would be given and asked for"),
        ((("depth", "image", "f1"),), "the metric of 'image' must be one of l1, iou, miou"),
        ((("image", "caption", "f1@words"),), "must be one of f1, exact, .*; @FIELD not of ids"),
    ):
        with pytest.raises(ValueError, match=message):
            generation.Evaluator(toy, pairs)
    with pytest.raises(ValueError, match="samples"):
        generation.Evaluator(toy, (("depth", "image", "l1"),), samples=0)


def test_what_no_tokenizer_decodes(toy, monkeypatch):
    monkeypatch.setattr(build, "text_tokenizers", lambda _: {})
    with pytest.raises(ValueError, match="no text tokenizer for 'caption'; take f1 or exact"):
        generation.Evaluator(toy, (("image", "caption", "cider"),)).check()
    monkeypatch.setattr(Context, "tokenizers", {})
    with pytest.raises(ValueError, match="no tokenizer decodes 'image'"):
        generation.Evaluator(toy, (("depth", "image", "l1"),)).check()
