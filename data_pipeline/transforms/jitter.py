"""Large-scale jittering (arXiv 2012.07177), of pictures and their label maps alike, in the place of crops."""

import dataclasses

import numpy as np

from data_pipeline.transforms import base
from data_pipeline.view import VIEW


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """scales, flip: those of `jitter_setting`.

    Beyond a picture lies grey, beyond a map of classes 255, no label, beyond other maps 0, unknown.
    """

    scales: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.0

    writes, shows = (base.CROP,), True

    def __post_init__(self):
        jitter_setting(np.random.default_rng(0), (1, 1), self.scales, flip=self.flip)

    def __call__(self, example, rng):
        view = example[VIEW]
        if rng is None or view.crop is not None:
            return example
        crop = jitter_setting(rng, view.frame, self.scales, flip=self.flip, aspect=view.aspect)
        return example | {VIEW: dataclasses.replace(view, crop=crop, fills=True)}


def jitter_setting(
    rng: np.random.Generator,
    size: tuple[int, int],
    scales: tuple[float, float],
    *,
    flip: float = 0.0,
    aspect: float = 1.0,
) -> np.ndarray:
    """Large-scale jittering (arXiv 2012.07177, section 3): one window of a picture that is made larger or smaller.

    Args:
      rng: source of the random window.
      size: (height, width) of the picture in pixels.
      scales: least and greatest factor on the size at which the picture just fits into the result. Above 1 the window
        is at a random place; below 1 the picture lies in its upper left corner and the rest is to be filled.
      flip: probability that the window is mirrored.
      aspect: width / height of the window.

    Returns:
      int64[5] of (top, left, height, width, flip) for `apply_crop` with a `fill`, in pixels of the picture.

    Raises:
      ValueError: an argument out of its range.
    """
    if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
        raise ValueError(f"scales={scales} must be (least, greatest), both above 0: (0.1, 2.0) is usual.")
    if not 0 <= flip <= 1:
        raise ValueError(f"flip={flip} must be in [0, 1], a probability.")
    (height, width), scale = size, rng.uniform(*scales)
    rows = max(height, width / aspect) / scale
    rows, columns = max(1, round(rows)), max(1, round(rows * aspect))
    top, left = (int(rng.integers(max(n - part, 0) + 1)) for n, part in ((height, rows), (width, columns)))
    return np.asarray([top, left, rows, columns, rng.random() < flip], np.int64)
