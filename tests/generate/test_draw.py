"""Schedules and draws against the formulas written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.generate.draw import draw, restrict
from pretrain.generate.schedule import temperatures, token_schedule


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("count", [1, 2, 7, 16, 64, 196])
def test_every_step_commits_some_and_all_are_committed(count, kind):
    for steps in (1, 2, 5, 8, count, count + 10):
        known = token_schedule(count, steps, kind)
        assert known[-1] == count and len(known) == min(steps, count)
        assert np.diff(known, prepend=0).min() >= 1


def test_the_schedules_are_a_cosine_and_a_line():
    at = np.arange(1, 11) / 10
    np.testing.assert_allclose(token_schedule(1000, 10), 1000 - 1000 * np.cos(np.pi / 2 * at), atol=1)
    assert token_schedule(1000, 10, "linear").tolist() == (1000 * at).round().tolist()
    np.testing.assert_allclose(temperatures(5, 1.0, 0.0), [1, 0.75, 0.5, 0.25, 0])


def test_what_no_schedule_is():
    with pytest.raises(ValueError, match=r"schedule='sine': must be one of cosine, linear"):
        token_schedule(4, 2, "sine")
    with pytest.raises(ValueError, match=r"count=4, steps=0: must be at least 1"):
        token_schedule(4, 0)
    with pytest.raises(ValueError, match=r"temperature=1.0, -1.0: must not be negative"):
        temperatures(2, 1.0, -1.0)
    with pytest.raises(ValueError, match=r"top_k=-1, top_p=1.0"):
        restrict(jnp.zeros(4), -1)
    with pytest.raises(ValueError, match=r"top_k=0, top_p=0"):
        restrict(jnp.zeros(4), 0, 0.0)


def nucleus(logits, k, p):
    """The ids that may be drawn, one distribution, by the definition."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])[: k or None]
    odds = np.exp([logits[i] for i in order])
    odds, kept, mass = odds / odds.sum(), set(), 0.0
    for i, odd in zip(order, odds):
        if mass >= p:
            break
        kept.add(i)
        mass += odd
    return kept


@pytest.mark.parametrize("k, p", [(0, 1.0), (3, 1.0), (0, 0.6), (5, 0.8), (1, 0.1), (100, 1.0)])
def test_top_k_and_top_p(k, p):
    logits = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32) * 2
    got = np.asarray(restrict(jnp.asarray(logits), k, p))
    for row, mine in zip(got, logits):
        kept = set(np.flatnonzero(row != -np.inf).tolist())
        assert kept == nucleus(mine, k, p)
        assert all(row[i] == mine[i] for i in kept)


def test_draws_follow_the_distribution_and_each_example_its_key():
    logits = jnp.log(jnp.asarray([0.5, 0.3, 0.15, 0.05]))
    keys = jax.vmap(jax.random.key)(jnp.arange(4))
    ids = draw(keys, jnp.broadcast_to(logits, (4, 20000, 4)), 1.0)
    np.testing.assert_allclose(np.bincount(np.asarray(ids).ravel()) / ids.size, jnp.exp(logits), atol=0.005)
    np.testing.assert_array_equal(ids[2:3], draw(keys[2:3], jnp.broadcast_to(logits, (1, 20000, 4)), 1.0))
    sharp = draw(keys, jnp.broadcast_to(logits, (4, 20000, 4)), 0.5)  # probabilities squared
    odds = np.asarray(jnp.exp(logits)) ** 2
    np.testing.assert_allclose(np.bincount(np.asarray(sharp).ravel()) / ids.size, odds / odds.sum(), atol=0.005)
    assert (draw(keys, jnp.broadcast_to(logits, (4, 5, 4)), 0.0) == 0).all()
    top = draw(keys, jnp.broadcast_to(logits, (4, 5000, 4)), 1.0, top_k=2)
    assert set(np.unique(top).tolist()) == {0, 1}
    assert set(np.unique(draw(keys, jnp.zeros((4, 2, 2000)).at[..., :3].set(9.0), 1.0, top_k=3)).tolist()) <= {0, 1, 2}
