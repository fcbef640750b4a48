"""Cosine coefficients of brightness in blocks of 8 × 8, as JPEG has them, each block in zigzag order."""

import numpy as np

from data_pipeline.image import as_channels

SIDE = 8
LUMA = np.float32([0.299, 0.587, 0.114])


def cosines() -> np.ndarray:
    """float32[8, 8]: the orthonormal DCT-II, a frequency a row."""
    k, n = np.ogrid[:SIDE, :SIDE]
    rows = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * n + 1) * k / (2 * SIDE))
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


def zigzag() -> np.ndarray:
    """int[64]: where in a block, row by row, the coefficients lie from low to high frequency."""
    # Even diagonals go upwards, by column, odd ones downwards, by row.
    at = lambda place: (sum(place), place[1 - sum(place) % 2])
    order = sorted(((row, column) for row in range(SIDE) for column in range(SIDE)), key=at)
    return np.array([row * SIDE + column for row, column in order])


def derive(image):
    """uint8[H, W, C] → uint8[H, W, 1]: of each block its first coefficient by 8, and 128 plus each other, in bounds."""
    high, wide = image.shape[:2]
    if high % SIDE or wide % SIDE:
        raise ValueError(f"dct:FIELD: a picture of {high}×{wide}: its sides must be multiples of {SIDE}")
    luma = as_channels(image, 3) @ LUMA
    blocks = luma.reshape(high // SIDE, SIDE, wide // SIDE, SIDE).swapaxes(1, 2)
    found = (cosines() @ blocks @ cosines().T).reshape(*blocks.shape[:2], SIDE**2)[..., zigzag()]
    found[..., 0] /= SIDE
    found[..., 1:] += 128
    laid = found.reshape(*blocks.shape).swapaxes(1, 2).reshape(high, wide, 1)
    return np.clip(np.rint(laid), 0, 255).astype(np.uint8)
