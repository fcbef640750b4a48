"""The convolutional networks: shapes, gradients, errors. Their layers: tests/models/test_convolution.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain.tokenizers.networks import conv

CONFIG = conv.Config(widths=(8, 16, 24), blocks=2, groups=4)
SHAPE = (8, 12, 3)


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def pair(dtype=jnp.float32):
    encoder = conv.Encoder(CONFIG, SHAPE, dtype=dtype, rngs=nnx.Rngs(0))
    return encoder, conv.Decoder(CONFIG, encoder.grid, SHAPE, dtype=dtype, rngs=nnx.Rngs(1))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes(dtype):
    encoder, decoder = pair(dtype)
    x = encoder(images(2, *SHAPE))
    assert (encoder.grid, encoder.dim, decoder.dim) == ((2, 3), 24, 24)
    assert x.shape == (2, 6, 24) and x.dtype == jnp.float32
    out = decoder(x)
    assert out.shape == (2, *SHAPE) and out.dtype == jnp.float32


def test_tokens_are_in_raster_order_and_the_gradient_reaches_every_parameter():
    encoder, decoder = pair()
    # What a far token says of a changed corner is only what the norms carry, much less than the near one.
    x = images(1, *SHAPE)
    changed = x.copy()
    changed[0, :4, 8:] += 3.0
    difference = np.abs(np.asarray(encoder(x) - encoder(changed)))[0].mean(-1)
    assert difference.argmax() == 2
    (graph, params), (other, more) = nnx.split(encoder), nnx.split(decoder)
    noise = lambda tree: jax.tree.map(lambda p: p + 0.1, tree)  # blocks start as the identity

    def loss(params, more):
        return jnp.square(nnx.merge(other, more)(nnx.merge(graph, params)(x)) - 0.3).mean()

    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(noise(params), noise(more))
    lacking = [p for p, g in jax.tree_util.tree_leaves_with_path(grads) if not np.asarray(g).any()]
    assert not lacking


def test_errors():
    with pytest.raises(ValueError, match=r"conv.widths=\(8, 12\): must be divisible by conv.groups=8"):
        conv.Config(widths=(8, 12))
    with pytest.raises(ValueError, match=r"divisible by 4, not 8×10"):
        conv.Encoder(CONFIG, (8, 10, 3), dtype=jnp.float32, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"make 8×8 of a grid of 2×2, not 16×16"):
        conv.Decoder(CONFIG, (2, 2), (16, 16, 3), dtype=jnp.float32, rngs=nnx.Rngs(0))
