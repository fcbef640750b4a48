"""RandAugment (arXiv 1909.13719): a few random operations on a picture, here Pillow's, of one strength for all.

The operations and their ranges are those that recipes write `rand-m9-mstd0.5-inc1`, MAE's among them, which 4M follows;
with them the strength varies a little, each operation is left out half of the time, and all grow with the strength.
"""

import copy
import dataclasses

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from data_pipeline.image import BICUBIC
from data_pipeline.transforms import base
from data_pipeline.view import VIEW


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """ops: how many operations are drawn, one after another, the same for all pictures of an example. magnitude, std:
    of the normal distribution of an operation's strength, in tenths of its range, cut to 0…10."""

    ops: int = 2
    magnitude: float = 9.0
    std: float = 0.5

    reads = writes = (base.EDITS,)
    shows = True

    def __post_init__(self):
        if self.ops < 0 or not 0 <= self.magnitude <= 10 or self.std < 0:
            raise ValueError(f"randaugment={self}: needs ops >= 0, magnitude in 0…10 and std >= 0")

    def check(self, modalities):
        for m in modalities:
            picture = m.pictures and m.grid and m.resample == "bicubic"
            if self.ops and (m.pictures or m.grid) and not picture:
                raise ValueError(
                    f"randaugment.ops={self.ops}: it moves pictures, and {m.name!r} would stay where it is; leave it "
                    "out of data.transforms, and beside maps take jitter"
                )

    def __call__(self, example, rng):
        if rng is None:
            return example
        view = example[VIEW]
        # Each picture begins with the same generator, so that all are distorted alike.
        edit = lambda picture, grey: self.distort(picture, copy.deepcopy(rng), grey)
        return example | {VIEW: dataclasses.replace(view, edits=(*view.edits, edit))}

    def distort(self, image: np.ndarray, rng: np.random.Generator, fill: int) -> np.ndarray:
        """uint8[H, W, 1 or 3] → the same; fill: a grey for what a move brings in from outside."""
        picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
        for name in rng.choice(list(OPERATIONS), self.ops):
            # All are drawn, whatever comes of it, so that pictures of other channels stay aligned.
            applied, strength, sign = rng.random() < 0.5, rng.normal(self.magnitude, self.std), rng.choice([-1, 1])
            if applied:
                picture = OPERATIONS[name](picture, float(np.clip(strength, 0, 10)) / 10, int(sign), fill)
        return np.asarray(picture).reshape(image.shape)


def _enhance(kind):
    """Towards nothing of it (0) or twice as much (2)."""
    return lambda picture, share, sign, fill: kind(picture).enhance(max(0.1, 1 + sign * 0.9 * share))


def _grey(picture, value):
    return (value,) * len(picture.getbands())


def _move(picture, matrix, fill):
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, BICUBIC, fillcolor=_grey(picture, fill))


def _solarize_add(picture, share, sign, fill):
    """Dark values grow lighter."""
    lighter = np.arange(256)
    lighter[:128] += int(110 * share)
    return picture.point(lighter.tolist() * len(picture.getbands()))


# Each: (picture, strength in 0…1, −1 or 1, grey) → picture.
OPERATIONS = {
    "autocontrast": lambda p, share, sign, fill: ImageOps.autocontrast(p),
    "equalize": lambda p, share, sign, fill: ImageOps.equalize(p),
    "invert": lambda p, share, sign, fill: ImageOps.invert(p),
    "rotate": lambda p, share, sign, fill: p.rotate(sign * 30 * share, BICUBIC, fillcolor=_grey(p, fill)),
    "posterize": lambda p, share, sign, fill: ImageOps.posterize(p, max(1, 4 - int(4 * share))),
    "solarize": lambda p, share, sign, fill: ImageOps.solarize(p, 256 - int(256 * share)),
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda p, share, sign, fill: _move(p, (1, sign * 0.3 * share, 0, 0, 1, 0), fill),
    "shear_y": lambda p, share, sign, fill: _move(p, (1, 0, 0, sign * 0.3 * share, 1, 0), fill),
    "translate_x": lambda p, share, sign, fill: _move(p, (1, 0, sign * 0.45 * share * p.width, 0, 1, 0), fill),
    "translate_y": lambda p, share, sign, fill: _move(p, (1, 0, 0, 0, 1, sign * 0.45 * share * p.height), fill),
}
