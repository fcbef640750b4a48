"""Random crops and flips, one for all pictures of an example, in its largest one's pixels."""

import dataclasses
import math

import numpy as np

from data_pipeline.transforms import base
from data_pipeline.view import VIEW


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """min_scale, ratio, flip: those of `crop_settings`. An example whose tokens are of crops shows one of these."""

    min_scale: float = 0.8
    ratio: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0

    writes, shows = (base.CROP,), True

    def __post_init__(self):
        crop_settings(np.random.default_rng(0), 1, 1, **dataclasses.asdict(self))

    def __call__(self, example, rng):
        view = example[VIEW]
        if rng is None or view.crop is not None:
            return example
        crop = crop_settings(rng, 2, view.frame, aspect=view.aspect, **dataclasses.asdict(self))[1]
        return example | {VIEW: dataclasses.replace(view, crop=crop)}


def crop_settings(
    rng: np.random.Generator,
    count: int,
    size: int | tuple[int, int],
    *,
    min_scale: float = 0.8,
    ratio: tuple[float, float] = (1.0, 1.0),
    flip: float = 0.0,
    aspect: float = 1.0,
) -> np.ndarray:
    """Draws crops that every modality of an example shares, in the layout of 4M's `crop_settings.npy`.

    Args:
      rng: source of the random crops.
      count: number of crops, >= 1.
      size: pixels of the uncropped image, a side or (height, width).
      min_scale: least share of the area of the largest crop that a random crop keeps, in (0, 1].
      ratio: least and greatest factor on the aspect of a random crop, drawn log-uniformly; (1, 1) leaves it.
      flip: probability that a random crop is mirrored.
      aspect: width / height of the crops before `ratio`: 1 for squares.

    Returns:
      int64[count, 5] of (top, left, height, width, flip). Row 0 is the largest crop at the centre, not mirrored:
      for a square image all of it. The others are random.

    Raises:
      ValueError: an argument out of its range.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1: row 0 is always the centre crop.")
    if not 0 < min_scale <= 1:
        raise ValueError(f"min_scale={min_scale} must be in (0, 1], a share of the area.")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio={ratio} must be (least, greatest), both above 0: (3/4, 4/3) is usual.")
    if not 0 <= flip <= 1:
        raise ValueError(f"flip={flip} must be in [0, 1], a probability.")
    height, width = (int(side) for side in np.broadcast_to(size, 2))

    def largest(aspect):
        return min(height, width / aspect), min(width, height * aspect)

    settings = np.empty((count, 5), np.int64)
    rows, columns = (max(1, round(side)) for side in largest(aspect))
    settings[0] = (height - rows) // 2, (width - columns) // 2, rows, columns, 0
    for row in settings[1:]:
        scale = math.sqrt(rng.uniform(min_scale, 1))
        # Nothing is drawn for (1, 1): a run without it keeps the crops that it had before there was a ratio.
        factor = math.exp(rng.uniform(*np.log(ratio))) if tuple(ratio) != (1, 1) else 1
        rows, columns = (max(1, round(side * scale)) for side in largest(aspect * factor))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        row[:] = top, left, rows, columns, rng.random() < flip
    return settings
