"""Error level analysis: how far each pixel moves where a picture is compressed as JPEG again.

What was compressed before, on the same grid of blocks, moves less than what was pasted later.
"""

import io

import numpy as np
from PIL import Image

from data_pipeline.image import as_channels

QUALITY = 80  # of ASC-Former (arXiv 2312.06934)


def derive(image):
    """uint8[H, W, C] → uint8[H, W, 3]: |picture − itself at QUALITY|."""
    image, file = as_channels(image, 3), io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    again = np.asarray(Image.open(file), np.int16)
    return np.abs(image - again).astype(np.uint8)
