"""Sine-cosine tables against their formula, entry by entry."""

import math

import numpy as np
import pytest

from pretrain.ops.positions import resize, sincos_1d, sincos_2d


def entry(position, k, dim, shortest=1.0, longest=10000.0):
    """Entry k of `dim`: sines in the first half, cosines in the second."""
    angle = position / (shortest * (longest / shortest) ** ((k % (dim // 2)) / (dim / 2)))
    return math.sin(angle) if k < dim // 2 else math.cos(angle)


def test_1d():
    want = [[entry(p, k, 8) for k in range(8)] for p in range(50)]
    np.testing.assert_allclose(sincos_1d(50, 8), want, atol=1e-6)


def test_other_waves():
    want = [[entry(p, k, 8, 0.5, 30.0) for k in range(8)] for p in range(50)]
    np.testing.assert_allclose(sincos_1d(50, 8, (0.5, 30.0)), want, atol=1e-6)
    np.testing.assert_array_equal(sincos_2d(2, 3, 8, (0.5, 30.0))[4], np.tile(sincos_1d(2, 4, (0.5, 30.0))[1], 2))


def test_2d_is_row_then_column_in_raster_order():
    rows, columns, dim = 3, 5, 12
    want = [
        [*(entry(r, k, dim // 2) for k in range(dim // 2)), *(entry(c, k, dim // 2) for k in range(dim // 2))]
        for r in range(rows)
        for c in range(columns)
    ]
    table = sincos_2d(rows, columns, dim)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, want, atol=1e-6)


@pytest.mark.parametrize("grid, new", [((3, 4), (6, 9)), ((8, 8), (4, 4)), ((5, 7), (5, 7))])
def test_resizing_is_pytorchs(grid, new):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).normal(size=(grid[0] * grid[1], 5)).astype(np.float32)
    image = torch.from_numpy(table.reshape(1, *grid, 5)).movedim(-1, 1)
    want = torch.nn.functional.interpolate(image, size=new, mode="bicubic", align_corners=False)
    np.testing.assert_allclose(resize(table, grid, new), want[0].movedim(0, -1).reshape(-1, 5).numpy(), atol=1e-5)


def test_all_positions_differ():
    for table in (sincos_1d(500, 16), sincos_2d(14, 14, 16)):
        assert len(np.unique(table, axis=0)) == len(table)


def test_2d_needs_a_multiple_of_four():
    with pytest.raises(ValueError, match=r"dim=10: .*multiple of 4"):
        sincos_2d(2, 2, 10)


def test_another_grid_has_the_places_of_the_one_it_was_trained_on():
    table = sincos_2d(4, 6, 16)
    np.testing.assert_allclose(sincos_2d(4, 6, 16, span=(4, 6)), table, atol=1e-6)
    finer = sincos_2d(12, 18, 16, span=(4, 6)).reshape(12, 18, 16)
    np.testing.assert_allclose(finer[1::3, 1::3].reshape(24, 16), table, atol=1e-6)  # the middle one of every nine
