"""The encoder-decoder that `models.encdec` composes: how it starts, its sizes, slopes, and the trunk as a ViT."""

import re

import numpy as np
import pytest
import tiny
from tiny import MODALITIES

from data_pipeline.spec import Modality
from pretrain.models.passes import Leaf, compute
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Shown, Whole, concat, dense_rows, whole


def test_without_a_contrastive_objective_there_are_no_probes():
    made = tiny.model(embedded=(), pool_queries=3)
    assert made.pool.head is None and "project" not in made.states
    assert tiny.model(pool_queries=3).pool.head.pool_queries.shape == (3, 16)


@pytest.mark.parametrize("mimetic", [False, True])
def test_mimetic_keys_start_as_queries(mimetic):
    made = tiny.model(mimetic=mimetic, noise=0.0)
    own, cross = made.encoder.blocks.attn.qkv.kernel[...], made.decoder.blocks.cross_attn
    assert np.array_equal(own[:, :, :16], own[:, :, 16:32]) == mimetic
    assert np.array_equal(cross.q.kernel[...], cross.kv.kernel[:, :, :16]) == mimetic
    assert not np.array_equal(own[:, :, :16], own[:, :, 32:])
    copied = np.swapaxes(cross.kv.kernel[:, :, 16:], 1, 2)
    assert np.array_equal(cross.proj.kernel[...], copied) == mimetic
    assert np.array_equal(made.decoder.context.kernel[...], np.eye(16)) == mimetic


@pytest.mark.slow
def test_slopes_make_attention_local():
    """With steep slopes a query reads its own place alone: what changes elsewhere in the picture changes nothing."""
    model = Predictor(tiny.model(slopes=(1e4, 1e4), encoder_depth=1))
    batch = tiny.batch(3, missing=0.0)
    image = whole(batch, "image", MODALITIES)
    other = image._replace(ids=(image.ids + (np.arange(16) != 5)) % 20)
    asked = image._replace(modality=np.zeros_like(image.modality))
    one, two = (np.asarray(model.decode(model.encode(Shown(t, {})), asked).x) for t in (image, other))
    np.testing.assert_allclose(one[:, 5], two[:, 5], atol=1e-6)
    assert (np.abs(one - two).max(-1)[:, np.arange(16) != 5] > 1e-3).all()
    both = concat([image, whole(batch, "caption", MODALITIES)])
    moved = model.encode(Shown(both, {})).x[:, 5] - model.encode(Shown(image, {})).x[:, 5]
    assert np.abs(moved).max() > 1e-3


def test_slopes_are_one_a_head():
    with pytest.raises(ValueError, match=r"model.slopes=\(1.0,\): needs one for each of model.heads=2"):
        tiny.model(slopes=(1.0,))


@pytest.mark.parametrize("key, value", [("waves", (8.0, 0.35)), ("waves", (0.0, 8.0)), ("pool_queries", -1)])
def test_wrong_sizes_are_named(key, value):
    with pytest.raises(ValueError, match=re.escape(f"model.{key}={value}")):
        tiny.model(**{key: value})


def test_the_trunk_as_a_vit_over_images():
    pixels = Modality(
        "pixels", "pixels", (8, 12, 3), "p", patch=4, mean=(0.5,) * 3, std=(0.2,) * 3, targets=False
    )  # fmt: skip
    modalities = (*MODALITIES, pixels)
    network = tiny.model(modalities=modalities)
    batch = tiny.batch(3, missing=0.0, modalities=modalities)
    images = batch["pixels"]["pixels"]
    node = network.states.stream("pixels", Leaf(Whole(("pixels",), modalities)))
    encoded = compute(network, {"x": node}, {"pixels": batch["pixels"]}, layers=(node,))["x"]
    assert encoded.x.shape == (3, 6, 16) and encoded.layers.shape == (3, 2, 6, 16) and encoded.valid.all()
    # The second patch, by hand: rows 0-3, columns 4-7, normalised, projected, placed.
    patch = (images[:, :4, 4:8] / 255 - 0.5).reshape(3, -1) / 0.2
    rows = dense_rows(batch, modalities)["pixels"]
    np.testing.assert_allclose(rows[:, 1], patch, atol=1e-5)
