"""The trunk of an encoder-decoder as an image network; towers: tests/objectives/test_perceptual.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.models import encdec
from pretrain.models.image_network import ImageNetwork
from pretrain.models.network import Network
from pretrain.models.tokens import Whole

NORM = dict(patch=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2), targets=False)
MODALITIES = (*tiny.MODALITIES[2:], Modality("rgb", "pixels", (8, 8, 3), "rgb", **NORM))
CONFIG = encdec.Config(
    dim=16, heads=2, encoder_depth=3, decoder_depth=1, embed_dim=8, dtype="float32", mlp_ratio=2.0, registers=2
)


def network(modalities=MODALITIES, **keys):
    make = lambda rngs: Network(CONFIG, modalities, (), rngs)
    return ImageNetwork(lambda workdir: (make, modalities), "workdir", **keys)


def test_a_trunk_compares_pictures_by_its_blocks():
    model = tiny.model((), MODALITIES, encoder_depth=3, registers=2)
    params = nnx.to_pure_dict(nnx.split(model)[1])

    def encode(model, pictures):
        shown = Whole(("rgb",), MODALITIES)({"rgb": {"pixels": pictures, "valid": np.ones(len(pictures), bool)}})
        return model.run("encoder", model.run("embed", shown), layers=True)

    blocks = jax.jit(lambda m, p: jnp.moveaxis(encode(m, p).layers, 1, 0))
    a, b = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8, 3), dtype=np.uint8)
    x, y = (np.asarray(blocks(model, p), np.float64)[[1, 2]] for p in (a, b))
    x, y = (h / np.linalg.norm(h, axis=-1, keepdims=True) for h in (x, y))
    want = ((x - y) ** 2).sum(-1).mean((0, 2))
    found = jax.jit(network(layers=(1, 2)).distance)(params, a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_allclose(found, want, rtol=1e-4)
    pooled = jax.jit(network().pooled)(params, a.astype(np.float32))
    np.testing.assert_allclose(pooled, jax.jit(lambda m: m.run("pool", encode(m, a)))(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "modalities, channels, message",
    [
        (tiny.MODALITIES, 3, "that network reads no pixels"),
        ((*MODALITIES, Modality("other", "pixels", (8, 8, 3), "other", **NORM)), 3, "one of rgb, other"),
        (MODALITIES, 2, "it has 3 channels, the pictures 2"),
    ],
)
def test_errors(modalities, channels, message):
    with pytest.raises(ValueError, match=message):
        network(modalities).check(channels)
