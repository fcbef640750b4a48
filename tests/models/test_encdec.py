"""Pooling against NumPy, and the independences that the encoder-decoder promises."""

import re

import numpy as np
import pytest
import tiny
from tiny import MODALITIES

from data_pipeline.spec import Modality
from pretrain.models.tokens import concat, dense_rows, whole


@pytest.mark.parametrize("probes", [0, 3])
def test_pool(probes):
    model = tiny.model(probes=probes)
    encoded = model.encode(whole(tiny.batch(6, missing=0.4), "caption", MODALITIES))
    pooled = np.asarray(model.pool(encoded))
    assert pooled.shape == (6, 16 * max(probes, 1))
    x, valid, placed = (np.asarray(a) for a in (encoded.x, encoded.valid, encoded.placed))
    assert valid.any(1).tolist().count(False) > 0
    for b in range(6):
        if not valid[b].any():
            assert (pooled[b] == 0).all()
            continue
        here = x[b, valid[b]]
        parts = [here.mean(0)]
        if probes:
            scores = np.asarray(model.probes[...]) @ (here + placed[b, valid[b]]).T
            weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            parts = list(weights @ here)
        np.testing.assert_allclose(pooled[b], np.concatenate(parts), rtol=1e-4, atol=1e-5)


def test_without_a_contrastive_objective_there_are_no_probes():
    assert tiny.model(embedded=(), probes=3).probes is None


def test_predictions_of_one_modality_do_not_depend_on_what_else_is_asked():
    model, batch = tiny.model(), tiny.batch(3, missing=0.0)
    image, depth, caption = (whole(batch, n, MODALITIES) for n in ("image", "depth", "caption"))
    encoded = model.encode(image)
    together = np.asarray(model.decode(encoded, concat([depth, caption])))
    np.testing.assert_allclose(together[:, :6], model.decode(encoded, depth), atol=1e-5)
    np.testing.assert_allclose(together[:, 6:], model.decode(encoded, caption), atol=1e-5)


def test_empty_slots_and_the_order_of_tokens_change_nothing():
    model, batch = tiny.model(probes=2), tiny.batch(3, missing=0.0)
    image, depth = (whole(batch, n, MODALITIES) for n in ("image", "depth"))
    alone = model.encode(image)
    padded = model.encode(concat([depth._replace(valid=np.zeros_like(depth.valid)), image]))
    np.testing.assert_allclose(padded.x[:, 6:], alone.x, atol=1e-5)
    np.testing.assert_allclose(model.pool(padded), model.pool(alone), atol=1e-5)
    turned = model.encode(type(image)(*(np.asarray(f)[:, ::-1] for f in image)))
    np.testing.assert_allclose(turned.x[:, ::-1], alone.x, atol=1e-5)


@pytest.mark.parametrize("mimetic", [False, True])
def test_mimetic_keys_start_as_queries(mimetic):
    model = tiny.model(mimetic=mimetic, noise=0.0)
    own, cross = model.encoder.attn.qkv.kernel[...], model.decoder.cross_attn
    assert np.array_equal(own[:, :, :16], own[:, :, 16:32]) == mimetic
    assert np.array_equal(cross.q.kernel[...], cross.kv.kernel[:, :, :16]) == mimetic
    assert not np.array_equal(own[:, :, :16], own[:, :, 32:])
    copied = np.swapaxes(cross.kv.kernel[:, :, 16:], 1, 2)
    assert np.array_equal(cross.proj.kernel[...], copied) == mimetic
    assert np.array_equal(model.context.kernel[...], np.eye(16)) == mimetic


def test_slopes_make_attention_local():
    """With steep slopes a query reads its own place alone: what changes elsewhere in the picture changes nothing."""
    model = tiny.model(slopes=(1e4, 1e4), encoder_depth=1)
    batch = tiny.batch(3, missing=0.0)
    image = whole(batch, "image", MODALITIES)
    other = image._replace(ids=(image.ids + (np.arange(16) != 5)) % 20)
    asked = image._replace(modality=np.zeros_like(image.modality))
    one, two = (np.asarray(model.decode(model.encode(t), asked)) for t in (image, other))
    np.testing.assert_allclose(one[:, 5], two[:, 5], atol=1e-6)
    assert (np.abs(one - two).max(-1)[:, np.arange(16) != 5] > 1e-3).all()
    text = whole(batch, "caption", MODALITIES)
    assert np.abs(model.encode(concat([image, text])).x[:, 5] - model.encode(image).x[:, 5]).max() > 1e-3


def test_slopes_are_one_a_head():
    with pytest.raises(ValueError, match=r"model.slopes=\(1.0,\): needs one for each of model.heads=2"):
        tiny.model(slopes=(1.0,))


@pytest.mark.parametrize("key, value", [("waves", (8.0, 0.35)), ("waves", (0.0, 8.0)), ("probes", -1)])
def test_wrong_sizes_are_named(key, value):
    with pytest.raises(ValueError, match=re.escape(f"model.{key}={value}")):
        tiny.model(**{key: value})


def test_the_trunk_as_a_vit_over_images():
    pixels = Modality(
        "pixels", "pixels", (8, 12, 3), "p", patch=4, mean=(0.5,) * 3, std=(0.2,) * 3, targets=False
    )  # fmt: skip
    modalities = (*MODALITIES, pixels)
    model = tiny.model(modalities=modalities)
    batch = tiny.batch(3, missing=0.0, modalities=modalities)
    images = batch["pixels"]["pixels"]
    encoded = model.encode_images(images, layers=True)
    assert encoded.x.shape == (3, 6, 16) and encoded.layers.shape == (2, 3, 6, 16) and encoded.valid.all()
    # The second patch, by hand: rows 0-3, columns 4-7, normalised, projected, placed.
    patch = (images[:, :4, 4:8] / 255 - 0.5).reshape(3, -1) / 0.2
    rows = dense_rows(batch, modalities)["pixels"]
    np.testing.assert_allclose(rows[:, 1], patch, atol=1e-5)
    with pytest.raises(ValueError, match=r"images of shape \(4, 4, 3\)"):
        model.encode_images(images[:, :4, :4])


def test_pixels_that_nobody_gave_are_no_zeros():
    pixels = Modality("pixels", "pixels", (8, 8, 3), "p", patch=4, mean=(0.5,) * 3, std=(0.2,) * 3, targets=False)
    modalities = (*MODALITIES, pixels)
    model, batch = tiny.model(modalities=modalities), tiny.batch(3, missing=0.0, modalities=modalities)
    assert np.isnan(model.encode(whole(batch, "pixels", modalities)).x).all()
    assert np.isfinite(model.encode(whole(batch, "image", modalities)).x).all()
    with pytest.raises(ValueError, match=r"modality 'pixels': patch=0"):
        tiny.model(modalities=(*MODALITIES, tiny.replace(pixels, patch=0)))


def test_every_modality_is_embedded_alone_also_beside_pixels():
    """Two token modalities of one length share an encoder call, in which the pixels of the batch have no place."""
    half = (0.5, 0.5, 0.5)
    photo = Modality("photo", "pixels", (8, 8, 3), "photo", patch=4, mean=half, std=half, targets=False)
    modalities = (*MODALITIES, tiny.replace(MODALITIES[0], name="other"), photo)
    names = ("image", "other", "photo")
    model, data = tiny.model(embedded=names, modalities=modalities), tiny.batch(3, modalities=modalities, missing=0.0)
    tokens = {n: whole(data, n, modalities) for n in names}
    dense = dense_rows(data, modalities)
    together = model.embed(tokens, dense)
    for n in names:
        own = {n: dense[n]} if n in dense else {}
        np.testing.assert_allclose(together[n], model.pooled(tokens[n], own, n)[1], atol=1e-5)
