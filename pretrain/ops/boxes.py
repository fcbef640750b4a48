"""Boxes, in shares of a picture's sides: forms and overlaps."""

import jax.numpy as jnp


def corners(boxes):
    """Centre x, centre y, width and height `[…, 4]` → left, top, right and bottom."""
    centre, size = jnp.split(boxes, 2, axis=-1)
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def centred(boxes):
    """Left, top, right and bottom `[…, 4]` → centre x, centre y, width and height."""
    low, high = jnp.split(boxes, 2, axis=-1)
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def overlaps(a, b):
    """(IoU, generalised IoU) of boxes of corners, a and b `[…, 4]`, which broadcast.

    GIoU = IoU − (hull − union) / hull, hull the smallest box around both (arXiv 1902.09630, algorithm 1), in −1…1.
    """
    area = lambda low, high: jnp.maximum(high - low, 0.0).prod(-1)
    (a_low, a_high), (b_low, b_high) = jnp.split(a, 2, axis=-1), jnp.split(b, 2, axis=-1)
    both = area(jnp.maximum(a_low, b_low), jnp.minimum(a_high, b_high))
    union = area(a_low, a_high) + area(b_low, b_high) - both
    hull = area(jnp.minimum(a_low, b_low), jnp.maximum(a_high, b_high))
    iou = both / jnp.maximum(union, 1e-9)
    return iou, iou - (hull - union) / jnp.maximum(hull, 1e-9)
