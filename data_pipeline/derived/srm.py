"""Residuals of three of the steganalysis filters (SRM): what is left of a picture without what is smooth in it."""

import cv2
import numpy as np

from data_pipeline.image import as_channels

FILTERS = (
    np.float32([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4,
    np.float32([[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]])
    / 12,
    np.float32([[1, -2, 1]]) / 2,
)
UNIT, MOST = 57.0, 3.0  # ASC-Former (arXiv 2312.06934) filters pictures that are divided by their deviation, of 57


def derive(image):
    """uint8[H, W, C] → uint8[H, W, 3]: each filter's residual, summed over colours, of −3…3 units in 0…255."""
    colours = as_channels(image, 3).astype(np.float32).sum(2) / UNIT
    # Beyond the border lies black, as there.
    found = [cv2.filter2D(colours, -1, f, borderType=cv2.BORDER_CONSTANT) for f in FILTERS]
    return np.rint((np.clip(np.stack(found, 2), -MOST, MOST) + MOST) * (255 / (2 * MOST))).astype(np.uint8)
