"""Residual vector quantization against NumPy, level by level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import place

from pretrain.tokenizers.quantizers import residual

LEVELS, SIZE, WIDTH, COUNT, TOKENS = 3, 6, 4, 5, 7


def quantizer(**changes):
    config = residual.Config(**dict(levels=LEVELS, size=SIZE, width=WIDTH) | changes)
    return residual.Quantizer(config, rngs=nnx.Rngs(0))


def vectors(seed=0):
    return np.random.default_rng(seed).normal(size=(COUNT, TOKENS, WIDTH)).astype(np.float32)


def numpy_quantize(z, books):
    """(ids `[B, N, levels]`, codes, what each level was given `[levels, B, N, d]`, loss `[B]`)."""
    ids, codes = np.zeros((*z.shape[:2], len(books)), int), np.zeros(z.shape)
    given, loss = np.zeros((len(books), *z.shape)), np.zeros(len(z))
    for b, n in np.ndindex(*z.shape[:2]):
        left = z[b, n].astype(np.float64)
        for level, book in enumerate(books):
            given[level, b, n] = left
            ids[b, n, level] = k = int(((book - left) ** 2).sum(1).argmin())
            loss[b] += ((book[k] - left) ** 2).sum() / (len(books) * z.shape[1] * z.shape[2])
            left = left - book[k]
            codes[b, n] += book[k]
    return ids, codes, given, loss


def test_equals_numpy():
    q, z = quantizer(), vectors()
    out = q(jnp.asarray(z))
    ids, codes, _, loss = numpy_quantize(z, np.asarray(q.codebook[...]))
    np.testing.assert_array_equal(out.ids, ids.reshape(COUNT, -1))  # a token's levels stand together
    np.testing.assert_allclose(out.codes, codes, atol=1e-6)
    np.testing.assert_allclose(out.losses["commitment"], loss, rtol=1e-5)
    np.testing.assert_array_equal(q.to_codes(out.ids), out.codes)


def test_statistics_and_update_equal_numpy():
    q, z, valid = quantizer(decay=0.6, renew=0.0), vectors(), np.array([True, True, False, True, True])
    out = q(jnp.asarray(z))
    sums = q.statistics(jnp.asarray(z), out.ids, place(valid))
    ids, _, given, _ = numpy_quantize(z, np.asarray(q.codebook[...]))
    new = q.update(sums)
    for level in range(LEVELS):
        counts, total = np.zeros(SIZE), np.zeros((SIZE, WIDTH))
        for b, n in np.ndindex(COUNT, TOKENS):
            if valid[b]:
                counts[ids[b, n, level]] += 1
                total[ids[b, n, level]] += given[level, b, n]
        np.testing.assert_array_equal(sums["counts"][level], counts)
        average = 0.6 * 1 + 0.4 * counts
        want = 0.6 * np.asarray(q.sums[level]) + 0.4 * total
        smooth = (average + 1e-5) / (average.sum() + SIZE * 1e-5) * average.sum()
        np.testing.assert_allclose(new["counts"][level], average, rtol=1e-6)
        np.testing.assert_allclose(new["codebook"][level], want / smooth[:, None], atol=1e-5)


def test_dead_codes_of_a_level_become_what_it_was_given():
    q, z = quantizer(renew=0.9, decay=0.0), vectors()
    out = q(jnp.asarray(z))
    sums = q.statistics(jnp.asarray(z), out.ids, place(np.ones(COUNT, bool)))
    _, _, given, _ = numpy_quantize(z, np.asarray(q.codebook[...]))
    new, seen = np.asarray(q.update(sums)["codebook"]), 0
    for level in range(LEVELS):
        for k in np.flatnonzero(np.asarray(sums["counts"][level]) < 0.9 * COUNT * TOKENS / SIZE):
            assert (np.abs(given[level] - new[level, k]).max(-1) < 1e-5).any()
            seen += 1
    assert seen > LEVELS


def test_gradient_passes_straight_through():
    q, z, weight = quantizer(), jnp.asarray(vectors()), vectors(1)
    graph, params = nnx.split(q)
    d_z, d_params = jax.grad(lambda z, p: (weight * nnx.merge(graph, p)(z).codes).sum(), argnums=(0, 1))(z, params)
    np.testing.assert_allclose(d_z, weight, atol=1e-6)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(d_params))


def test_every_level_comes_closer():
    z = jnp.asarray(vectors())
    q = quantizer(levels=4, size=64, decay=0.0)
    for t in range(20):  # k-means of one batch
        new = q.update(q.statistics(z, q(z).ids, place(np.ones(COUNT, bool), t)))
        for name, value in new.items():
            getattr(q, name)[...] = value
    ids = np.asarray(q(z).ids).reshape(COUNT, TOKENS, 4)
    parts = np.stack([np.asarray(q.codebook[k])[ids[..., k]] for k in range(4)])
    errors = ((np.asarray(z) - parts.cumsum(0)) ** 2).mean((1, 2, 3))
    assert (np.diff(errors) <= 0).all() and errors[-1] < 0.1 * float((z**2).mean())


def test_config_errors():
    with pytest.raises(ValueError, match=r"residual.levels=0: must be at least 1"):
        residual.Config(levels=0)
    with pytest.raises(ValueError, match=r"residual.size=1"):
        residual.Config(size=1)
