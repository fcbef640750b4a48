"""The assignment: against SciPy's, with targets that lack, and what is not finite. Shares: against plain sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pretrain.ops.assignment import assign, sinkhorn

ASSIGN = jax.jit(assign)


@pytest.mark.parametrize("queries, targets", [(7, 4), (4, 4), (5, 1)])
def test_it_is_the_least_cost_of_all(queries, targets):
    rng = np.random.default_rng(queries)
    cost = rng.normal(size=(6, 2, queries, targets)).astype(np.float32)
    valid = rng.random((6, 1, targets)) > 0.3
    valid[0] = False
    found = np.asarray(ASSIGN(cost, np.broadcast_to(valid, (6, 2, targets))))
    for b in range(6):
        kept = np.flatnonzero(valid[b, 0])
        for layer in range(2):
            rows, columns = linear_sum_assignment(cost[b, layer][:, kept])
            np.testing.assert_array_equal(found[b, layer][kept[columns]], rows)
            assert len(set(found[b, layer])) == targets, "each another row, those of no target too"


def test_it_is_indifferent_to_order():
    rng = np.random.default_rng(1)
    cost, valid = rng.normal(size=(6, 4)).astype(np.float32), np.array([True, False, True, True])
    found, rows, columns = ASSIGN(cost, valid), rng.permutation(6), rng.permutation(4)
    turned = ASSIGN(cost[rows][:, columns], valid[columns])
    np.testing.assert_array_equal(rows[turned][valid[columns]], np.asarray(found)[columns][valid[columns]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_it_ends_where_costs_are_not_finite(bad):
    cost = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    cost[:, 1] = bad
    assert len(set(np.asarray(ASSIGN(cost, np.ones(3, bool))))) == 3
    assert len(set(np.asarray(ASSIGN(np.full_like(cost, bad), np.ones(3, bool))))) == 3


def test_no_gradient_passes_and_more_targets_than_rows_are_refused():
    cost, valid = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32), jnp.ones(3, bool)
    picked = lambda c: jnp.take_along_axis(c, assign(c, valid)[None], axis=0).sum()
    assert jax.grad(picked)(cost).sum() == 3, "of what was picked, and of nothing else"
    with pytest.raises(ValueError, match=r"cost \(3, 5\): needs as many rows as columns"):
        assign(cost.T, jnp.ones(5, bool))


def shares(scores, iterations):
    """Sinkhorn's algorithm in loops over sums, as MGCA's release has it: total, then columns 1/K, rows 1/B; rows 1."""
    q = np.exp(np.asarray(scores, np.float64)).T
    q /= q.sum()
    for _ in range(iterations):
        q *= (1 / len(q) / q.sum(1))[:, None]
        q *= (1 / q.shape[1] / q.sum(0))[None]
    return (q / q.sum(0)).T


SHARE = jax.jit(sinkhorn, static_argnums=2)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_shares_equal_sums_in_plain_numbers_and_absent_rows_take_no_part(iterations):
    scores = np.random.default_rng(0).uniform(-1, 1, (12, 5)).astype(np.float32) / 0.05
    present = np.arange(12) % 4 != 1
    scores[~present] = np.nan
    found = np.asarray(SHARE(scores, present, iterations))
    np.testing.assert_allclose(found[present], shares(scores[present], iterations), rtol=2e-5, atol=1e-7)
    assert (found[~present] == 0).all()


def test_shares_of_prototypes_come_out_equal_and_nothing_overflows():
    scores = np.random.default_rng(1).uniform(-1, 1, (12, 4)).astype(np.float32)
    found = np.asarray(SHARE(scores / 0.05, np.ones(12, bool), 200))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.sum(0), 3, rtol=1e-3)
    np.testing.assert_array_equal(SHARE(scores / 0.05 + 500, np.ones(12, bool), 3).sum(0) > 0, True)
    assert not np.asarray(SHARE(scores, np.zeros(12, bool), 3)).any()
    assert (jax.grad(lambda s: sinkhorn(s, np.ones(12, bool), 3)[:, 0].sum())(jnp.asarray(scores)) == 0).all()
