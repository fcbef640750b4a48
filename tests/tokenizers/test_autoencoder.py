"""The autoencoder: its parts, shapes, the round trip of ids, locality of the encoder, chunked use on the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.models.network import describe
from pretrain.models.parts import autoencoder
from pretrain.objectives import contrastive
from pretrain.objectives.base import Context
from pretrain.tokenizers.autoencoder import Config, Tokenizer
from pretrain.tokenizers.networks import patches
from pretrain.tokenizers.networks.patches import patchify, unpatchify
from pretrain.tokenizers.quantizers import fsq

LEVELS = (4, 3, 3)
PIXELS = Modality("rgb", "pixels", (8, 16, 3), "rgb")


def model(modalities=(PIXELS,), levels=LEVELS, **changes):
    encoder = patches.Config(**dict(patch=4, dim=16, mlps=1) | changes)
    decoder = patches.Config(**dict(patch=4, dim=16, mlps=1, blocks=1) | changes)
    config = Config(
        functools.partial(patches.Encoder, encoder), functools.partial(fsq.Quantizer, fsq.Config(levels)),
        functools.partial(patches.Decoder, decoder), code_scale=3.0, dtype="float32",
    )  # fmt: skip
    return config.make(modalities, nnx.Rngs(0))


def test_nothing_of_it_is_embedded():
    m = tuple(tiny.replace(PIXELS, name=name, patch=4, targets=False, mean=(0.5,) * 3, std=(0.5,) * 3) for name in "ab")
    space = Context(m, network=describe({"autoencoder": autoencoder.Config()}, m))
    with pytest.raises(ValueError, match="contrastive: the network gives no embedding of 'a', but of nothing"):
        contrastive.Objective(space, (contrastive.Edge("a", "b"),))


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 16, 3), dtype=np.uint8)


def test_patches_are_raster_ordered_and_invert():
    x = images(2)
    patches = np.asarray(patchify(jnp.asarray(x), 4))
    assert patches.shape == (2, 8, 48)
    np.testing.assert_array_equal(patches[1, 5], x[1, 4:8, 4:8].ravel())  # 2 × 4 patches: number 5 is row 1, column 1
    np.testing.assert_array_equal(unpatchify(jnp.asarray(patches), 4, (2, 4)), x)


@pytest.mark.parametrize("overlap", [1, 4])
def test_patches_that_overlap_add_up(overlap):
    size = 4 + 2 * overlap
    patches = np.random.default_rng(0).normal(size=(2, 6, size, size, 3)).astype(np.float32)
    canvas = np.zeros((2, 8 + 2 * overlap, 12 + 2 * overlap, 3))
    for i, j in np.ndindex(2, 3):
        canvas[:, 4 * i : 4 * i + size, 4 * j : 4 * j + size] += patches[:, 3 * i + j]
    made = unpatchify(jnp.asarray(patches.reshape(2, 6, -1)), 4, (2, 3), overlap)
    np.testing.assert_allclose(made, canvas[:, overlap:-overlap, overlap:-overlap], atol=1e-6)


def test_only_decoders_overlap():
    with pytest.raises(ValueError, match="overlap=5: must be from 0 to"):
        patches.Config(patch=4, overlap=5)
    with pytest.raises(ValueError, match="overlap=1: is for decoders"):
        patches.Encoder(patches.Config(patch=4, overlap=1), (8, 8, 3), dtype=jnp.float32, rngs=nnx.Rngs(0))


def test_tokenize_and_detokenize():
    m, x = model(), images(3)
    ids = np.asarray(m.tokenize(x))
    assert ids.shape == (3, 8) and ids.dtype == np.int32 and 0 <= ids.min() <= ids.max() < fsq.codebook_size(LEVELS)
    assert len(np.unique(ids)) > 1
    out = np.asarray(m.detokenize(ids))
    assert out.shape == x.shape and out.dtype == np.uint8
    # Detokenizing the ids is decoding the codes.
    direct = np.clip(np.asarray(m.decode(m.encode(x))) * 127.5 + 127.5, 0, 255)
    np.testing.assert_allclose(out, direct, atol=0.51)


def test_a_token_depends_on_its_own_patch_only():
    m, x = model(), images(1)
    changed = x.copy()
    changed[0, 4:8, 4:8] = 255 - changed[0, 4:8, 4:8]
    difference = np.abs(np.asarray(m.encode(x)) - np.asarray(m.encode(changed)))[0].max(-1)
    assert difference[5] > 0 and not np.delete(difference, 5).any()


def test_the_gradient_reaches_every_parameter():
    graph, params = nnx.split(model())

    def loss(p):
        m = nnx.merge(graph, p)
        return jnp.square(m.decode(m.encode(images(2))) - 0.3).mean()

    grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    assert all(np.asarray(g).any() for _, g in grads), [p for p, g in grads if not np.asarray(g).any()]


def test_label_maps_are_read_as_vectors_of_their_classes_and_given_as_logits():
    m = model((Modality("map", "pixels", (8, 16, 1), "map", vocab_size=5, resample="nearest"),))
    maps = np.random.default_rng(0).integers(0, 5, (2, 8, 16, 1), dtype=np.uint8)
    assert m.decode(m.encode(maps)).shape == (2, 8, 16, 5) and m.classes.shape == (5, 64)
    out = np.asarray(m.detokenize(m.tokenize(maps)))
    assert out.shape == maps.shape and out.dtype == np.uint8 and out.max() < 5
    # 255, no label, reads zeros: as a class whose vector is zero.
    blank = maps.copy()
    blank[maps == 4] = 255
    zero = m.latents(blank)
    m.classes[...] = m.classes[...].at[4].set(0.0)
    np.testing.assert_array_equal(m.latents(maps), zero)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_chunks_give_the_same_as_one_batch(count):
    m, x = model(), images(count)
    small, big = Tokenizer(m, "abc", chunk=3), Tokenizer(m, "abc", chunk=16)
    ids = small.encode(x)
    np.testing.assert_array_equal(ids, big.encode(x))
    np.testing.assert_array_equal(ids, m.tokenize(x))
    # Another batch size may sum in another order: only what lies halfway between two grey levels may round otherwise.
    level = np.asarray(m.decode(fsq.to_codes(ids, LEVELS))) * 127.5 + 127.5
    halfway = np.abs(level % 1 - 0.5) < 1e-4
    assert halfway.mean() < 0.01
    np.testing.assert_array_equal(np.where(halfway, 0, small.decode(ids)), np.where(halfway, 0, big.decode(ids)))
    assert small.decode(ids).shape == x.shape and small.vocab_size == 36 and small.grid == (2, 4)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(patch=3), "patches.patch=3: must divide the image size 8×16"),
        (dict(dim=18), "patches.dim=18: must be divisible by patches.heads=2 and by 4"),
        (dict(levels=(4, 1)), r"fsq.levels=\(4, 1\)"),
        (dict(modalities=(PIXELS, Modality("g", "pixels", (8, 8, 1), "g"))), "of one kind and shape"),
        (dict(modalities=(Modality("v", "vectors", (2, 8), "v", targets=False),)), "needs images, not vectors"),
    ],
    ids=str,
)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        model(**changes)
