"""Convolution and group normalisation against NumPy, and the ConvNeXt block at its start."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain.models.convolution import Conv, ConvNeXtBlock, GroupNorm


def maps(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "size, stride, groups, pad", [(3, 1, 1, None), (3, 2, 1, 1), (3, 2, 1, None), (7, 1, 4, None), (1, 1, 2, 0)]
)
def test_convolution_equals_numpy(size, stride, groups, pad):
    x = maps(2, 6, 8, 4)
    conv = Conv(4, 8, size, stride=stride, groups=groups, pad=pad, dtype=jnp.float32, rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.arange(8.0)
    kernel, after = np.asarray(conv.kernel[...]), size // 2
    before = 0 if stride == 2 and pad is None else after  # SAME: of an even side the zeros come last
    padded = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    want = np.zeros((2, 6 // stride, 8 // stride, 8))
    for row, column in np.ndindex(want.shape[1:3]):
        window = padded[:, row * stride : row * stride + size, column * stride : column * stride + size]
        for g in range(groups):
            ins, outs = slice(g * 4 // groups, (g + 1) * 4 // groups), slice(g * 8 // groups, (g + 1) * 8 // groups)
            want[:, row, column, outs] = np.einsum("bhwi,hwio->bo", window[..., ins], kernel[..., outs])
    np.testing.assert_allclose(conv(x), want + np.arange(8.0), atol=1e-5)


def test_convolution_in_bf16_accumulates_in_fp32():
    x = maps(2, 6, 8, 64)
    full, low = (Conv(64, 8, 3, dtype=d, rngs=nnx.Rngs(0)) for d in (jnp.float32, jnp.bfloat16))
    assert low(x).dtype == jnp.float32
    assert 0 < np.abs(np.asarray(low(x) - full(x))).max() < 0.03 * np.abs(np.asarray(full(x))).max()


def test_group_norm_equals_numpy():
    x = 3 + 2 * maps(2, 3, 5, 8)
    norm = GroupNorm(8, 4)
    norm.scale[...], norm.bias[...] = jnp.arange(8.0), jnp.ones(8)
    groups = x.reshape(2, 15, 4, 2)
    mean, variance = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    want = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape) * np.arange(8.0) + 1
    np.testing.assert_allclose(norm(x), want, atol=1e-5)


def test_a_convnext_block_starts_as_almost_nothing():
    x = maps(1, 8, 8, 4)
    block = ConvNeXtBlock(4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    change = np.abs(np.asarray(block(x)[0]) - x).max()
    assert 0 < change < 1e-4
