"""Segmentation by prototypes: counts by hand, regions and the ground of planted patches, and what is refused."""

import numpy as np
import pytest
from flax import nnx
from small_towers import evaluated

from configs.systems import prototypes_segmentation
from pretrain.evals import base, metrics, segmentation
from pretrain.evals.features import features
from pretrain.models.passes import compute

ASPECTS = ((), ("star",), ("key", "red key"), ("umbrella",), ("anchor",), ("cactus",), ("bus",))
KEYS = dict(modality="image", text="text", label="segments", aspects=ASPECTS, splits=("val",), shots=2)


def context(**changes):
    c = prototypes_segmentation.get_config("tiny")
    c.data.options = dict(scenes=60)
    return evaluated(c, **changes)


@pytest.fixture(scope="module")
def made():
    return context()


def test_scores_and_iou_equal_a_count_by_hand():
    tokens = np.array([[[1.0, 0.0], [0.6, 0.8]]])
    prototypes = [np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.8, 0.6]])]
    np.testing.assert_allclose(segmentation.scores(tokens, prototypes, "max"), [[[1, 0.8], [0.8, 0.96]]])
    np.testing.assert_allclose(segmentation.scores(tokens, prototypes, "mean"), [[[0.5, 0.8], [0.7, 0.96]]])
    counts = metrics.confusion(np.array([0, 0, 1, 2, 255, 2]), np.array([0, 1, 1, 0, 1, 2]), 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(metrics.class_iou(counts), [1 / 3, 1 / 2, 1 / 2, 0])


class Planted(segmentation.Evaluator):
    """Patches whose embedding is the class that they show most of, one number a class."""

    def _tokens(self, params, batch):
        return np.eye(8, dtype=np.float32)[self._shares(self._truth(batch)).argmax(-1)]


def test_planted_patches_are_segmented_by_their_regions_alone(made):
    held, params = made
    task = Planted(held, **KEYS)
    base.check(task, held, "final_evals.segmentation")
    found = dict(task.run(params))
    # What is left are pixels at the edges, in patches that show more of the ground or of something else.
    table = 0
    for batch in held.batches(("val",), 64):
        truth = task._truth(batch)
        most = task._shares(truth).argmax(-1).reshape(-1, 8, 8).repeat(6, 1).repeat(6, 2)
        table = table + metrics.confusion(truth, most, 7)
    best = metrics.class_iou(table)[1:].mean()
    assert found["visual/max/mIoU"] == pytest.approx(best) and best > 0.3 > 0.1 > found["text/max/mIoU"]
    assert found["text/max/mIoU"] < found["both/mean/mIoU"] <= best, "random texts say nothing"
    assert 0 < found["visual/max/mIoU"].chance < 0.1 and {"visual/max/star", "text/max/bus"} < set(found)


def test_each_class_has_the_centres_of_its_first_examples(made):
    held, _ = made
    task = segmentation.Evaluator(held, **KEYS | dict(regions=2))
    axes, tokens, truth = np.eye(5, dtype=np.float32), np.zeros((3, 64, 5), np.float32), np.zeros((3, 48, 48), int)
    truth[:, :12, :12] = 1  # 2 × 2 patches of each example, of which two examples count
    for c in range(2, 7):
        truth[2, 42:46, 6 * c : 6 * c + 6] = c  # four of six rows of a patch
    truth[0, 42:45, 12:18] = 2  # half of one, which is not enough
    tokens[0, [0, 1]], tokens[0, [8, 9]], tokens[1, [0, 1, 8, 9]], tokens[2] = axes[0], axes[1], axes[2], axes[3]
    tokens[2, 7 * 8 + 2] = axes[4]
    found = task._regions(tokens, truth)
    of_first = {tuple(v) for v in found[0].round(6).tolist()}
    assert of_first <= {tuple(v) for v in axes[:3].tolist()} and tuple(axes[2].tolist()) in of_first
    assert len(found[0]) == 4 and tuple(axes[3].tolist()) not in of_first
    np.testing.assert_array_equal(found[1], axes[[4]])


def test_the_mean_of_patches_is_the_picture(made):
    """Patches lie in the space of the picture's own embedding, which is their mean before its length is 1."""
    held, params = made
    batch = next(iter(held.batches(("val",), 4)))
    task = segmentation.Evaluator(held, **KEYS)
    raw = held.network.projected("image", held.network.shown("image"), raw=True)
    x = np.asarray(compute(nnx.merge(held.graph, params["model"]), {"z": raw}, batch)["z"])
    np.testing.assert_allclose(task._tokens(params, batch), x / np.linalg.norm(x, axis=-1, keepdims=True), atol=1e-5)
    mean = x.mean(1)
    there = batch["row"] >= 0
    z = features(held, params, "image", ("val",)).at(batch["row"][there]).z
    np.testing.assert_allclose((mean / np.linalg.norm(mean, axis=-1, keepdims=True))[there], z, atol=1e-5)


def test_pictures_are_shown_beside_their_classes(made):
    from pretrain.evals.pictures import Images

    held, params = made
    ((title, figure),) = segmentation.Evaluator(held, **KEYS).figures(params, Images(held))
    assert title == "image by prototypes" and len(figure.axes) == 5 * 6


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(modality="text"), r"segmentation.modality='text': its patches have no embedding"),
        (dict(modality="sound"), r"segmentation.modality: no modality 'sound'"),
        (dict(text="image"), r"segmentation.text='image': has no text tokenizer"),
        (dict(label="depth"), r"segmentation.label='depth': no map of classes among the labels; there are segments"),
        (dict(aspects=ASPECTS[:3]), r"segmentation.aspects=.*: give texts of each of the 7 classes, of one at most"),
        (dict(aspects=((), *ASPECTS[:6])), r"segmentation.aspects=.*: give texts of each of the 7 classes"),
        (dict(shots=0), r"segmentation.shots=0: regions=3, batch_size=64: must be at least 1"),
    ],
)  # fmt: skip
def test_what_it_cannot_segment_is_named(made, keys, message):
    with pytest.raises(ValueError, match=message):
        segmentation.Evaluator(made[0], **KEYS | keys)


def test_a_class_that_no_example_shows_is_named(made):
    held, _ = made

    class Two(base.Context):
        def batches(self, split, batch_size):
            batch = next(iter(super().batches(split, batch_size)))
            batch["segments"]["pixels"] = np.minimum(batch["segments"]["pixels"], 2)
            yield batch

    few = Two(held.run, held.graphs, held.objectives)
    with pytest.raises(
        ValueError, match=r"segmentation.bank='train': no example fills half a patch with class 3, 'umbrella'"
    ):
        segmentation.Evaluator(few, **KEYS).check()
