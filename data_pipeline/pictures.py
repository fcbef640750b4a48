"""What a modality shows of the images and clips of a raw example: one crop for all, channels, derived images."""

import math

import numpy as np

from data_pipeline import kinds
from data_pipeline.derived import derive
from data_pipeline.image import BICUBIC, NEAREST, NO_LABEL, apply_crop, as_channels, centre_crop
from data_pipeline.spec import Modality
from data_pipeline.stored import Picture, as_picture, describe, numbers


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
    (base,) = m.fields
    given = example.get(base)
    if given is None:
        return None
    images = kinds.of(m).images(m, example, given, start)
    made = [read_image({base: image}, m.field, setting, m.shape[-3:-1], resample, frame, fill) for image in images]
    made = [as_channels(image, m.shape[-1]) for image in made]
    if made[0].shape != m.shape[-3:]:
        raise ValueError(f"modality {m.name!r}: shape={m.shape}, but row {example['row']} has {made[0].shape}")
    return np.stack(made).reshape(m.shape)


def read_image(
    example: dict, field: str, setting, size: int | tuple[int, int], resample=BICUBIC, frame=None, fill=None
) -> np.ndarray | None:
    """An image field of a raw example, cropped by a row of `crop_settings` (None: at its centre), uint8 `[*size, C]`.

    `NAME:FIELD` is what `derived/NAME.py` makes of the crop of FIELD. None if the example lacks the field. resample,
    frame and fill are those of `apply_crop`.
    """
    make = derive(field)
    image = example.get(field.rpartition(":")[2])
    if image is None:
        return None
    if setting is None:
        image = centre_crop(image, size, resample)
    else:
        image = apply_crop(image, setting, size, resample, frame, fill)
    return make(image) if make else image


def as_bytes(example: dict, m: Modality, image: np.ndarray) -> np.ndarray:
    """uint8[H, W, C] of an image, by the kind of the modality: classes, a continuous map, or how it looks."""
    if m.vocab_size:
        return classes(m, example)
    try:
        if m.range:
            return _scaled(m, image)
        if m.resample == "nearest" and ":" not in m.field:
            _check_exact(m, image)
        return as_picture(image)
    except ValueError as e:
        raise ValueError(f"modality {m.name!r}: row {example['row']}: {m.field} {e}") from e


def classes(m: Modality, example: dict) -> np.ndarray:
    """The class of each pixel of a label map, uint8[H, W, 1].

    ValueError for a pixel of no class, and for an image that holds no single number a pixel.
    """
    where = f"labels {m.name!r}: row {example['row']} has {m.field}"
    try:
        found = numbers(example[m.field])
    except ValueError as e:
        raise ValueError(f"{where} that {e}") from e
    known = (found < m.vocab_size) & (found >= 0) | (found == NO_LABEL)
    if found.dtype.kind == "f":
        known &= found % 1 == 0
    if not known.all():
        raise ValueError(
            f"{where} of {np.unique(found[~known])[:5].tolist()}: must be 0…{m.vocab_size - 1}, or {NO_LABEL} for "
            "none; mend the data, or set vocab_size"
        )
    return found.astype(np.uint8, copy=False)


def _scaled(m: Modality, image) -> np.ndarray:
    """A continuous map on the scale of `range`, in digits to the base 256, the highest first: uint8[H, W, C]."""
    (low, high), channels = m.range, m.shape[-1]
    if channels == 3 and not isinstance(image, Picture) and image.ndim == 3 and image.shape[2] == 3:
        found = (as_picture(image).astype(np.int64) << [16, 8, 0]).sum(2, keepdims=True)  # digits already
    else:
        found = numbers(image)
    if getattr(image, "mode", "").startswith("P"):
        raise ValueError(f"is {describe(image)}: the indices of a palette are no quantity")
    if found.dtype.kind == "f" and np.isnan(found).any():
        raise ValueError("has pixels that are no number (NaN): store what is unknown as a number")
    top = 256**channels - 1
    scaled = np.rint(((found.astype(np.float64) - low) / (high - low)).clip(0, 1) * top).astype(np.int64)
    return np.concatenate([scaled >> 8 * digit & 255 for digit in reversed(range(channels))], axis=2).astype(np.uint8)


def _check_exact(m: Modality, image):
    """ValueError for an image of which `nearest` would change the numbers: nothing says what they are."""
    deep = getattr(image, "stored", None)
    deep = (image if deep is None else deep).dtype.itemsize > 1
    given, wanted = 1 if image.ndim < 3 else image.shape[2], m.shape[-1]
    if deep or (given != wanted and not (given == 3 and (image == image[..., :1]).all())):
        raise ValueError(
            f"is {describe(image)}, and resample='nearest' with {wanted} channels keeps numbers as they are: say what "
            "they are, vocab_size=CLASSES or range=(LOW, HIGH), or resample='bicubic' for a picture"
        )
