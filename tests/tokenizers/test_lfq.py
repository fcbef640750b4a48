"""Lookup-free quantization against NumPy, code by code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain.tokenizers.quantizers import lfq

WIDTH = 5


def quantizer(width=WIDTH):
    return lfq.Quantizer(lfq.Config(width), rngs=nnx.Rngs(0))


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_equals_numpy():
    q, z = quantizer(), vectors(3, 4, WIDTH)
    out = q(jnp.asarray(z))
    for b, n in np.ndindex(3, 4):
        assert int(out.ids[b, n]) == sum(2**j for j in range(WIDTH) if z[b, n, j] > 0)
        np.testing.assert_array_equal(out.codes[b, n], [1.0 if x > 0 else -1.0 for x in z[b, n]])
    np.testing.assert_allclose(out.losses["commitment"], ((z - np.sign(z)) ** 2).mean((1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(q(jnp.zeros((1, 1, WIDTH))).ids, 0)


@pytest.mark.parametrize("width", [1, WIDTH, 18])
def test_ids_and_codes_are_inverse(width):
    q, ids = quantizer(width), jnp.arange(min(2**width, 5000))[None] * max(1, 2**width // 5000)
    codes = q.to_codes(ids)
    np.testing.assert_array_equal(q.to_ids(codes), ids)
    np.testing.assert_array_equal(q(codes).ids, ids)
    np.testing.assert_array_equal(q(codes).codes, codes)


def test_gradient_passes_straight_through():
    z, weight = jnp.asarray(vectors(2, 3, WIDTH)), vectors(2, 3, WIDTH, seed=1)
    got = jax.grad(lambda z: (weight * quantizer()(z).codes).sum())(z)
    np.testing.assert_array_equal(got, weight)
