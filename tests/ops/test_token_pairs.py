"""Tokens against tokens inside an example: against loops, with padding, absence, and one word for one patch."""

import jax
import numpy as np
import pytest

from pretrain.ops.token_pairs import attended_losses, clipped_weights, late_similarity

LOSSES = jax.jit(attended_losses, static_argnums=5)


def made(seed=0, size=5, n=6, m=7, dim=8):
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(size, k, dim)) for k in (n, m))
    x, y = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y))
    here, there = (np.arange(k) < rng.integers(1, k + 1, (size, 1)) for k in (n, m))
    weights = rng.random((size, n)) * here
    weights /= weights.sum(1, keepdims=True)
    return [v.astype(np.float32) if v.dtype != bool else v for v in (x, y, here, there, weights)]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attended(x, y, here, there, weights, t):
    """Of one example, over what it has alone."""
    x, y, weights = (np.float64(v) for v in (x[here], y[there], weights[here]))
    o = softmax(x @ y.T / t) @ y
    o /= np.linalg.norm(o, axis=1, keepdims=True)
    s, total = x @ o.T / t, 0.0
    for i in range(len(x)):
        row = -np.log(softmax(s[i])[i])
        column = -np.log(softmax(s[:, i])[i])
        total += weights[i] * (row + column) / 2
    return total


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_attended_losses_equal_loops_and_padding_changes_nothing(temperature):
    given = made()
    x, y, here, there, weights = given
    want = [attended(*each, temperature) for each in zip(*given)]
    np.testing.assert_allclose(LOSSES(*given, temperature), want, rtol=1e-5)
    x, y = x.copy(), y.copy()
    x[~here], y[~there] = np.nan, np.nan  # what stands in empty slots
    np.testing.assert_allclose(LOSSES(x, y, here, there, weights, temperature), want, rtol=1e-5)
    loss = lambda x, y: attended_losses(x, y, here, there, weights, temperature).sum()
    grads = jax.jit(jax.grad(loss, (0, 1)))(x, y)
    assert all(np.isfinite(g).all() for g in grads)
    assert (np.asarray(grads[0])[~here] == 0).all() and (np.asarray(grads[1])[~there] == 0).all()


def test_an_example_of_nothing_gives_a_finite_number():
    x, y, here, there, weights = made()
    here[0], there[1] = False, False
    found = np.asarray(LOSSES(x, y, here, there, weights, 0.1))
    assert np.isfinite(found).all() and found[0] == 0


def test_one_word_that_names_one_patch_costs_least():
    """Words that are patches cost less than words that are not, and no less in another order."""
    x, y, *_ = made(m=6)
    here, weights = np.ones((5, 6), bool), np.full((5, 6), 1 / 6, np.float32)
    named = np.asarray(LOSSES(y, y[:, ::-1], here, here, weights, 0.1))
    assert (named < LOSSES(x, y, here, here, weights, 0.1)).all()
    np.testing.assert_allclose(named, LOSSES(y, y, here, here, weights, 0.1), rtol=1e-5)


def test_weights_are_clipped_to_their_own_quantiles():
    rng = np.random.default_rng(2)
    raw, counted = rng.random((6, 9)).astype(np.float32), np.arange(9) < rng.integers(1, 10, (6, 1))
    counted[0], counted[1] = False, np.arange(9) == 4
    found = np.asarray(jax.jit(clipped_weights, static_argnums=(2, 3))(raw, counted, 0.1, 0.9))
    assert (found[~counted] == 0).all() and (found[1] == (np.arange(9) == 4)).all() and not found[0].any()
    for row, there, got in zip(raw[1:], counted[1:], found[1:]):
        kept = np.clip(row[there], np.quantile(row[there], 0.1), np.quantile(row[there], 0.9))
        np.testing.assert_allclose(got[there], kept / kept.sum(), rtol=1e-5)


def test_late_similarity_equals_loops():
    """Of any length, in either order of the axes; padding and what is absent change nothing."""
    x, y, here, there, _ = made()
    x, y = 3 * x, y[:4]
    here, there = here.copy(), there[:4].copy()
    here[1], there[2] = False, False
    want = np.zeros((5, 4))
    for i in range(5):
        for j in range(4):
            s = np.float64(x[i][here[i]]) @ np.float64(y[j][there[j]]).T
            want[i, j] = s.max(0).mean() if s.size else 0.0
    found = jax.jit(late_similarity)((x, here), (y, there))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    x, y = x.copy(), y.copy()
    x[~here], y[~there] = np.nan, np.nan
    np.testing.assert_array_equal(jax.jit(late_similarity)((x, here), (y, there)), found)
    grads = jax.grad(lambda x, y: late_similarity((x, here), (y, there)).sum(), (0, 1))(x, y)
    assert all(np.isfinite(g).all() for g in grads)
