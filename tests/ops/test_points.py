"""Points that lie far apart and those near them, against loops."""

import jax
import numpy as np
import pytest

from pretrain.ops.points import farthest, nearest

POINTS = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


@pytest.mark.parametrize("there", [30, 12, 5, 0])
def test_each_centre_is_the_farthest_from_those_before(there):
    centres, own = jax.jit(farthest, static_argnums=2)(POINTS, np.arange(30) < there, 8)
    count = min(there, 8)
    assert own.tolist() == [True] * count + [False] * (8 - count)
    chosen = [0]
    while len(chosen) < count:
        apart = [min(np.square(POINTS[i] - POINTS[j]).sum() for j in chosen) for i in range(there)]
        chosen.append(int(np.argmax(apart)))
    np.testing.assert_array_equal(np.asarray(centres)[:count], POINTS[chosen[:count]])
    assert len(set(chosen)) == max(count, 1)


def test_the_same_point_twice_is_taken_once_more():
    points = np.repeat(POINTS[:2], 3, 0)
    centres, own = farthest(points, np.ones(6, bool), 6)
    assert own.all() and np.isfinite(centres).all(), "there are no others"
    np.testing.assert_array_equal(np.sort(np.asarray(centres)[:, 0]), np.sort(points[:, 0]))


@pytest.mark.parametrize("there", [30, 4])
def test_members_are_the_nearest_of_those_that_there_are(there):
    centres = POINTS[[3, 1]]
    numbers, counted = nearest(centres, POINTS, np.arange(30) < there, 6)
    assert counted.sum(1).tolist() == [min(there, 6)] * 2
    for centre, row, known in zip(centres, np.asarray(numbers), np.asarray(counted)):
        order = np.argsort(np.square(POINTS[:there] - centre).sum(-1))
        np.testing.assert_array_equal(row[known], order[: known.sum()])
        assert np.array_equal(POINTS[row[0]], centre)


def test_no_gradient_passes():
    def total(points):
        centres, _ = farthest(points, np.ones(30, bool), 4)
        return centres.sum() + nearest(centres, points, np.ones(30, bool), 3)[0].sum()

    assert not np.asarray(jax.grad(total)(POINTS)).any()
