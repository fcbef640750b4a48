"""What 4M's corruption is made of: choosing, counting, budgets, masked sequences and their windows, each by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import EOS, SENTINEL, is_sentinel

from pretrain.objectives.masking import (
    mask_sequence,
    order_by_counting,
    order_by_sorting,
    rank_by_counting,
    rank_by_sorting,
    select,
    split_budget,
    window_start,
)


def test_select():
    flag, values = jnp.asarray([False, True, True, False, True]), jnp.arange(5)
    assert [int(x) for x in select(flag, 2, values)[1]] == [1, 2] and int(select(flag, 2, values)[0]) == 2
    count, chosen = select(flag, 8, values)
    assert int(count) == 3 and chosen.shape == (8,) and [int(x) for x in chosen[:3]] == [1, 2, 4]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("length, size", [(1, 1), (7, 7), (300, 40), (40, 300)])
def test_counting_finds_the_order_of_sorting(length, size, share):
    rng = np.random.default_rng(0)
    flag = jnp.asarray(rng.random(length) < share)
    np.testing.assert_array_equal(order_by_counting(flag, size), order_by_sorting(flag, size))
    ties = jnp.asarray(rng.integers(0, 5, (3, length)) / 4).at[:, ::3].set(jnp.inf)
    np.testing.assert_array_equal(rank_by_counting(ties), rank_by_sorting(ties))


def test_split_budget_hands_on_what_a_modality_cannot_take():
    rng = np.random.default_rng(0)
    split = jax.jit(split_budget)
    for _ in range(300):
        weights = rng.dirichlet([0.3] * 4).astype(np.float32) * (rng.random(4) < 0.8)
        capacity, budget = rng.integers(0, 10, 4), rng.integers(0, 30)
        taken = np.asarray(split(weights, budget, capacity))
        room = np.where(weights > 0, capacity, 0)
        assert (taken >= 0).all() and (taken <= room).all() and taken.sum() == min(budget, room.sum())
        floor = np.floor(weights / max(weights.sum(), 1e-9) * budget * (1 - 1e-6))
        assert (taken >= np.minimum(floor, room)).all(), "nobody loses what is his own"


@pytest.mark.parametrize("budget", range(0, 14))
def test_a_visible_sequence_never_exceeds_its_budget(budget):
    for length in (1, 2, 7, 10):
        ids, valid = jnp.arange(40, 50), jnp.arange(10) < length
        keys = jax.random.split(jax.random.key(budget), 200)
        mask = jax.vmap(mask_sequence, in_axes=(0, None, None, None, None))
        _, n_shown, _, n_target = mask(keys, ids, valid, jnp.int32(budget), SENTINEL)
        n_shown, n_target = np.asarray(n_shown), np.asarray(n_target)
        assert (n_shown <= budget).all()
        if budget == 0:
            assert (n_target == length + 2).all(), "budget 0 masks all: [S_1] … [S_2]"
        if budget >= 1:
            assert (n_shown >= 1).all(), "with a budget something is shown, be it one sentinel"


def numpy_windows(target, size):
    """All starts that 4M's rule can give."""
    marks = [i for i, t in enumerate(target) if is_sentinel(np.asarray(t))]
    if len(target) <= size:
        return {0}
    tail = next(i for i in marks if len(target) - i <= size)
    return {i if len(target) - i >= size else tail for i in marks[:-1]}


def test_window_rule():
    rng = np.random.default_rng(0)
    start = jax.jit(jax.vmap(window_start, in_axes=(0, None, None, None, None)))
    for case in range(40):
        target = []
        for run in range(rng.integers(1, 5)):
            target += [SENTINEL + run, *rng.choice(tiny.WORDS, rng.integers(1, 4), replace=False)]
        target.append(SENTINEL + run + 1)
        padded = np.asarray(target + [EOS, SENTINEL] * 3)[: len(target) + 6]
        padded = np.pad(padded, (0, 30 - len(padded)), constant_values=SENTINEL)
        for size in (2, 3, 5, len(target) - 1, len(target), len(target) + 3):
            keys = jax.random.split(jax.random.key(case), 64)
            got = start(keys, jnp.asarray(padded), len(target), size, jnp.asarray(is_sentinel(padded)))
            assert set(got.tolist()) == numpy_windows(target, size), (target, size)
