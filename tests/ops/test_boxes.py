"""Forms of boxes and their overlaps, against numbers worked out by hand and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.ops.boxes import centred, corners, overlaps


@pytest.mark.parametrize(
    "a, b, iou, giou",
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1, 1),
        ((0, 0, 2, 2), (1, 0, 3, 2), 2 / 6, 2 / 6),  # the hull is the union
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
        ((0, 0, 1, 1), (3, 0, 4, 1), 0, -2 / 4),
        ((0, 0, 1, 1), (1, 1, 2, 2), 0, -2 / 4),  # they touch at a corner
        ((0, 0, 0, 0), (1, 1, 1, 1), 0, -1),  # of no area
    ],
)
def test_overlaps_by_hand(a, b, iou, giou):
    a, b = jnp.float32(a) / 4, jnp.float32(b) / 4
    np.testing.assert_allclose(overlaps(a, b), (iou, giou), atol=1e-6)
    np.testing.assert_allclose(overlaps(b, a), (iou, giou), atol=1e-6)


def test_overlaps_broadcast_and_lie_in_their_range():
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.random((2, 7, 2, 2)), axis=2).reshape(2, 7, 4).astype(np.float32)
    iou, giou = overlaps(boxes[0][:, None], boxes[1][None])
    assert iou.shape == giou.shape == (7, 7) and (giou <= iou + 1e-6).all() and (giou > -1).all() and (iou <= 1).all()
    grad = jax.grad(lambda a: overlaps(a, boxes[1])[1].sum())(jnp.zeros((7, 4)))
    assert np.isfinite(grad).all(), "of a box of no area too"


def test_forms_are_each_others_inverse():
    assert corners(jnp.float32((0.5, 0.4, 0.2, 0.6))) == pytest.approx((0.4, 0.1, 0.6, 0.7))
    boxes = jnp.asarray(np.random.default_rng(0).random((5, 4)), jnp.float32)
    np.testing.assert_allclose(corners(centred(boxes)), boxes, atol=1e-6)
