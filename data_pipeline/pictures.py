"""What a modality shows of the images and clips of a raw example: one crop for all, channels, derived images."""

import math

import numpy as np

from data_pipeline.image import BICUBIC, NEAREST, NO_LABEL, apply_crop, as_channels, centre_crop, edges
from data_pipeline.spec import Modality


def outside(m: Modality) -> int:
    """What lies beyond a picture: grey as bright as its mean; beyond a map what says nothing."""
    if m.resample == "nearest":
        return NO_LABEL if m.vocab_size else 0
    return round(255 * float(np.mean(m.mean or 0.5)))


def common_frame(shapes: dict, where: str) -> tuple[int, int]:
    """The largest of {modality: (height, width)}, all of one aspect ratio up to a pixel of rounding."""
    largest = max(shapes, key=lambda name: math.prod(shapes[name]))
    height, width = shapes[largest]
    for name, (rows, columns) in shapes.items():
        if abs(rows * width - columns * height) > max(height, width):
            raise ValueError(
                f"{where}: {largest!r} is {height}×{width} and {name!r} {rows}×{columns}: one crop serves all pixels "
                "of an example, so their aspect ratios must agree; crop or pad them alike"
            )
    return height, width


def read_pictures(example: dict, m: Modality, setting, frame, start: float = 0.0, fill=None):
    """What `pixels` or a `video` are of a raw example, uint8 of their shape; None if it lacks them.

    setting, frame, fill: as in `read_image`, one for all frames. start: where among the places that a longer clip
    leaves its frames begin, 0 … 1.
    """
    resample = {"bicubic": BICUBIC, "nearest": NEAREST}[m.resample]
    base = m.field.rpartition(":")[2]
    given = example.get(base)
    if given is None:
        return None
    if m.kind == "video":
        if given.dtype != np.uint8 or given.ndim != 4 or len(given) < m.shape[0]:
            raise ValueError(
                f"modality {m.name!r}: shape={m.shape}, but row {example['row']} has {given.dtype}{list(given.shape)}: "
                f"it must be uint8[T, H, W, C], T at least {m.shape[0]}"
            )
        first = int(start * (len(given) - m.shape[0] + 1))
        images = given[first : first + m.shape[0]]
    else:
        images = [given]
    made = [read_image({base: image}, m.field, setting, m.shape[-3:-1], resample, frame, fill) for image in images]
    made = [as_channels(image, m.shape[-1]) for image in made]
    if made[0].shape != m.shape[-3:]:
        raise ValueError(f"modality {m.name!r}: shape={m.shape}, but row {example['row']} has {made[0].shape}")
    return np.stack(made) if m.kind == "video" else made[0]


def read_image(
    example: dict, field: str, setting, size: int | tuple[int, int], resample=BICUBIC, frame=None, fill=None
) -> np.ndarray | None:
    """An image field of a raw example, cropped by a row of `crop_settings` (None: at its centre), uint8 `[*size, C]`.

    `edges:FIELD` is derived: the edges of the crop of FIELD. None if the example lacks the field. resample,
    frame and fill are those of `apply_crop`.
    """
    derived, _, base = field.rpartition(":")
    image = example.get(base)
    if image is None:
        return None
    if setting is None:
        image = centre_crop(image, size, resample)
    else:
        image = apply_crop(image, setting, size, resample, frame, fill)
    if not derived:
        return image
    if derived != "edges":
        raise ValueError(f"field={field!r}: {derived!r} is no derived image; there is `edges:FIELD`")
    return edges(image)
