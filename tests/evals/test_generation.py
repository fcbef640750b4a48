"""Generated things against what they are: the metrics by their definitions, and the task on a toy network."""

import collections

import jax
import numpy as np
import pytest
import tiny
from matplotlib import pyplot as plt
from toy import Toy

from pretrain.evals import generation
from pretrain.evals.pictures import Images
from pretrain.generate.chain import Generator, Target

RNG = np.random.default_rng(0)


class Grey:
    """Ids 0 … 19 as greys, two columns of them."""

    def decode(self, ids):
        return (np.asarray(ids)[:, :, None, None] * 12).astype(np.uint8).repeat(2, 2)


@pytest.fixture(autouse=True)
def tokenizers(monkeypatch):
    monkeypatch.setattr(Images, "tokenizers", {"fsq": Grey()})


@pytest.fixture(scope="module")
def toy():
    return Toy()


def test_metrics_of_pictures():
    made, truth = (RNG.uniform(0, 255, (5, 4, 4, 3)) for _ in range(2))
    pixels = list(zip(made.ravel(), truth.ravel()))
    assert generation.l1(made, truth) == pytest.approx(sum(abs(a - b) for a, b in pixels) / len(pixels) / 255)
    dark = [(a.mean() < 128, b.mean() < 128) for a, b in zip(made.reshape(-1, 3), truth.reshape(-1, 3))]
    both, either = sum(a and b for a, b in dark), sum(a or b for a, b in dark)
    assert generation.iou(made, truth) == pytest.approx(both / either)
    assert generation.l1(made, made) == 0 and generation.iou(made, made) == 1


def test_metrics_of_texts():
    made, truth = (np.where(RNG.random((50, 8)) < 0.8, RNG.integers(0, 5, (50, 8)), -1) for _ in range(2))
    wanted = []
    for a, b in zip(made, truth):
        a, b = (collections.Counter(x[x >= 0].tolist()) for x in (a, b))
        common = (a & b).total()
        precision, recall = common / a.total(), common / b.total()
        wanted.append(2 * precision * recall / (precision + recall) if common else 0.0)
    assert generation.f1(made, truth) == pytest.approx(np.mean(wanted))
    assert generation.exact(np.concatenate([made, truth]), np.concatenate([truth, truth])) == 0.5


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
    np.testing.assert_allclose(task._made(toy.params, batch, "depth", "image"), np.mean(draws, 0), rtol=1e-6)


def test_defaults_and_what_is_refused(toy):
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
        ((("depth", "image", "f1"),), "the metric of 'image' must be one of l1, iou"),
    ):
        with pytest.raises(ValueError, match=message):
            generation.Evaluator(toy, pairs)
    with pytest.raises(ValueError, match="samples"):
        generation.Evaluator(toy, (("depth", "image", "l1"),), samples=0)


def test_a_picture_that_no_tokenizer_decodes(toy, monkeypatch):
    monkeypatch.setattr(Images, "tokenizers", {})
    with pytest.raises(ValueError, match="no tokenizer decodes 'image'"):
        generation.Evaluator(toy, (("depth", "image", "l1"),)).check()
