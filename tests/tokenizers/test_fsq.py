"""Finite scalar quantization against independent NumPy (arXiv 2309.15505, appendix A.1), its grid, ids and gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.tokenizers.quantizers import fsq

LEVELS = [(8, 5, 5, 5), (3, 4), (7, 5, 5), (2, 3), (8, 8, 8, 6, 5)]


def samples(levels, count=4000):
    return np.random.default_rng(0).normal(size=(count, len(levels))) * 2


def numpy_quantize(z, levels, *, paper: bool):
    """Scalar by scalar. paper: as printed, (1 - eps) and tan; otherwise (1 + eps) and artanh, which never misses 0."""
    out = np.zeros(z.shape)
    for i, j in np.ndindex(z.shape):
        half = (levels[j] - 1) * (1 - 1e-3 if paper else 1 + 1e-3) / 2
        offset = 0.0 if levels[j] % 2 else 0.5
        shift = np.tan(offset / half) if paper else np.arctanh(offset / half)
        out[i, j] = np.round(np.tanh(z[i, j] + shift) * half - offset) / (levels[j] // 2)
    return out


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_equals_numpy(levels):
    z = samples(levels, 500)
    got, want = np.asarray(fsq.quantize(jnp.float32(z), levels)), numpy_quantize(z, levels, paper=False)
    differ = np.abs(got - want) > 1e-5
    assert differ.mean() < 2e-3, "beyond what fp32 rounds at a boundary"


@pytest.mark.parametrize("levels", [x for x in LEVELS if 2 not in x], ids=str)
def test_agrees_with_the_papers_listing_but_at_boundaries(levels):
    z = samples(levels, 1000)
    differ = np.abs(np.asarray(fsq.quantize(jnp.float32(z), levels)) - numpy_quantize(z, levels, paper=True)) > 1e-5
    assert differ.mean() < 0.01


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_ids_and_codes_are_inverse_over_the_whole_codebook(levels):
    size = fsq.codebook_size(levels)
    assert size == len(list(itertools.product(*map(range, levels))))
    ids = jnp.arange(size)
    codes = fsq.to_codes(ids, levels)
    np.testing.assert_array_equal(fsq.to_ids(codes, levels), ids)
    assert len(np.unique(np.asarray(codes), axis=0)) == size
    assert [int(i) for i in fsq.to_ids(fsq.to_codes(jnp.asarray([0, 1, levels[0]]), levels), levels)] == [
        0,
        1,
        levels[0],
    ]
    # The first channel is the least significant digit.
    np.testing.assert_allclose(np.asarray(codes[1] - codes[0]), np.eye(len(levels))[0] / (levels[0] // 2), atol=1e-6)


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_quantized_values_lie_on_the_grid_and_use_all_of_it(levels):
    codes = np.asarray(fsq.quantize(jnp.float32(samples(levels) * 4), levels))
    for j, n in enumerate(levels):
        grid = (np.arange(n) - n // 2) / (n // 2)
        distance = np.abs(codes[:, j, None] - grid)
        assert distance.min(1).max() < 1e-6 and set(distance.argmin(1)) == set(range(n))
    ids = np.asarray(fsq.to_ids(jnp.asarray(codes), levels))
    assert ids.min() >= 0 and ids.max() < fsq.codebook_size(levels)
    np.testing.assert_allclose(fsq.to_codes(jnp.asarray(ids), levels), codes, atol=1e-6)


def test_extreme_inputs_stay_in_the_codebook():
    for levels in LEVELS:
        z = jnp.asarray([[s * 1e4] * len(levels) for s in (-1, 1)])
        assert fsq.to_ids(fsq.quantize(z, levels), levels).tolist() == [0, fsq.codebook_size(levels) - 1]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_gradient_is_that_of_the_bound(levels):
    z = jnp.float32(samples(levels, 50))
    weight = jnp.float32(np.random.default_rng(1).normal(size=z.shape))
    got = jax.grad(lambda z: (weight * fsq.quantize(z, levels)).sum())(z)
    half = jnp.asarray([n // 2 for n in levels])
    np.testing.assert_allclose(got, jax.grad(lambda z: (weight * fsq.bound(z, levels) / half).sum())(z), atol=1e-6)
    assert np.asarray(got).any(0).all()


def test_zero_maps_to_zero():
    for levels in LEVELS:
        np.testing.assert_allclose(fsq.bound(jnp.zeros((1, len(levels))), levels), 0, atol=1e-3)
