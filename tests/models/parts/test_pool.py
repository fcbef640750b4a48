"""Pooling against NumPy: what each way takes, and of which tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import towers
from tiny import MODALITIES
from towers import batch, make, run

from pretrain.models.parts.pool import GroupGeneralizedMean
from pretrain.models.stream import NO_MODALITY, Stream
from pretrain.models.tokens import Whole


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("queries", [0, 3])
def test_mean_and_probes_take_the_tokens_of_an_example(queries, registers):
    """Register tokens stand for nothing: they are no part of the mean."""
    network = tiny.model(pool_queries=queries, registers=registers)
    shown = Whole(("caption",), MODALITIES)(tiny.batch(6, missing=0.4))
    encoded = network.run("encoder", network.run("embed", shown))
    pooled = np.asarray(network.run("pool", encoded))
    assert pooled.shape == (6, 16 * max(queries, 1))
    x, placed = (np.asarray(a)[:, registers:] for a in (encoded.x, encoded.placed))
    valid = np.asarray(shown.tokens.valid)
    assert valid.any(1).tolist().count(False) > 0
    for b in range(6):
        if not valid[b].any():
            assert (pooled[b] == 0).all()
            continue
        here = x[b, valid[b]]
        parts = [here.mean(0)]
        if queries:
            scores = np.asarray(network.pool.head.pool_queries[...]) @ (here + placed[b, valid[b]]).T
            weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            parts = list(weights @ here)
        np.testing.assert_allclose(pooled[b], np.concatenate(parts), rtol=1e-4, atol=1e-5)


def test_each_pooling_takes_what_it_says():
    data = batch()
    x, valid, pooled = run(make("text", pool="mean"), data, "text")
    np.testing.assert_allclose(pooled, [r[v].mean(0) for r, v in zip(x, valid)], atol=1e-6)
    x, valid, pooled = run(make("text", pool="last", causal=True), data, "text")
    np.testing.assert_array_equal(pooled, [r[v.sum() - 1] for r, v in zip(x, valid)])
    x, valid, pooled = run(make("photo", pool="cls"), data, "photo")
    assert x.shape == (3, 5, 8) and valid.all()
    np.testing.assert_array_equal(pooled, x[:, 0])
    made = make("text", pool="ggem")
    x, valid, pooled = run(made, data, "text")
    p = np.repeat(np.asarray(made.t_pool.head.p[...], np.float64), 4)
    want = [np.mean(np.maximum(r[v], 1e-6) ** p, 0) ** (1 / p) for r, v in zip(x.astype(np.float64), valid)]
    np.testing.assert_allclose(pooled, want, rtol=1e-4, atol=1e-6)
    made = make("text", pool="map")
    x, valid, pooled = run(made, data, "text")
    assert np.abs(pooled - run(make("text", pool="mean"), data, "text")[2]).max() > 0.1
    blurred = towers.stream(made, data, "text")
    blurred = blurred._replace(x=x + 9.0 * ~valid[..., None])
    np.testing.assert_allclose(made.run("t_pool", blurred), pooled, atol=1e-5)


def test_a_mean_leaves_a_class_token_out():
    """No tower has both, but parts may stand in any order."""
    network, data = make("photo", pool="cls"), batch()
    stream = towers.stream(network, data, "photo")
    assert (np.asarray(stream.modality[:, 0]) == NO_MODALITY).all() and stream.valid[:, 0].all()
    pooled = make("photo", pool="mean").run("t_pool", stream)
    np.testing.assert_allclose(pooled, np.asarray(stream.x)[:, 1:].mean(1), atol=1e-6)


def test_generalized_mean_is_the_mean_at_1_and_nearly_the_maximum_at_50():
    x, valid = jnp.abs(jax.random.normal(jax.random.key(0), (2, 5, 4))), jnp.asarray([[1, 1, 1, 0, 0], [0] * 5], bool)
    pool = GroupGeneralizedMean(2)
    pool.p[...] = jnp.asarray([1.0, 50.0])
    stream = Stream(x, valid, jnp.zeros((2, 5), int), jnp.zeros((2, 5), int))
    y = pool(stream)
    np.testing.assert_allclose(y[0, :2], x[0, :3, :2].mean(0), rtol=1e-5)
    np.testing.assert_allclose(y[0, 2:], x[0, :3, 2:].max(0), rtol=0.03)
    assert not y[1].any() and not np.isnan(jax.grad(lambda x: pool(stream._replace(x=x)).sum())(x)).any()
