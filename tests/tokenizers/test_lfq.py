"""Lookup-free quantization and its entropies against NumPy, code by code."""

import itertools

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


def numpy_entropies(z, weight, temperature, group):
    """From distances to all codes, one vector after the other."""
    codes = np.array(list(itertools.product((-1.0, 1.0), repeat=z.shape[1])))
    logits = -((z[:, None].astype(np.float64) - codes) ** 2).sum(-1) / temperature
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    token = (weight * -(p * np.log(np.maximum(p, 1e-300))).sum(1)).sum() / weight.sum()
    mean, entropy = (weight[:, None] * p).sum(0) / weight.sum(), 0.0
    for start in range(0, z.shape[1], group):
        # The marginal of the group: sum over all codes that agree on its bits.
        _, which = np.unique(codes[:, start : start + group], axis=0, return_inverse=True)
        marginal = np.bincount(which.ravel(), weights=mean)
        entropy -= (marginal * np.log(marginal)).sum()
    return token, entropy


@pytest.mark.parametrize("group", [1, 2, 3, WIDTH, 8])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_entropies_equal_numpy(group, temperature):
    z, weight = vectors(30, WIDTH), (np.arange(30) % 4 > 0).astype(np.float32)
    got = lfq.entropies(jnp.asarray(z), jnp.asarray(weight), temperature, group)
    want = numpy_entropies(z, weight, temperature, group)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    exact = numpy_entropies(z, weight, temperature, WIDTH)[1]
    assert want[1] >= exact - 1e-9, "an upper bound"


def test_entropies_have_the_gradient_of_differences():
    z, weight = vectors(8, 3), np.ones(8, np.float32)
    got = jax.grad(lambda z: lfq.entropies(z, weight, 1.0, 2)[0] - lfq.entropies(z, weight, 1.0, 2)[1])(jnp.asarray(z))

    def numpy_loss(z):
        token, codebook = numpy_entropies(z, weight, 1.0, 2)
        return token - codebook

    z = z.astype(np.float64)
    for i in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[i] = 1e-5
        np.testing.assert_allclose(got[i], (numpy_loss(z + step) - numpy_loss(z - step)) / 2e-5, atol=1e-5)


def test_far_vectors_stay_finite():
    z = jnp.full((2, WIDTH), 1e4)
    token, codebook = lfq.entropies(z, jnp.ones(2), 0.01, 2)
    grads = jax.grad(lambda z: sum(lfq.entropies(z, jnp.ones(2), 0.01, 2)))(z)
    assert abs(float(token)) < 1e-6 and abs(float(codebook)) < 1e-6 and np.isfinite(grads).all()
