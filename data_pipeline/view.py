"""What is shown of one example: one crop, one of several pictures, alike for all its modalities so that they fit."""

import dataclasses
from collections.abc import Callable

import numpy as np

from data_pipeline import kinds
from data_pipeline.pictures import common_frame

VIEW = "__view__"  # of an example: its View
CROPS = "crop_settings"  # of an example whose tokens are there for several crops: these


@dataclasses.dataclass(frozen=True)
class View:
    """The form of evaluation, unless something else is drawn.

    number: in [0, 1), drawn once: of n crops of tokens, pictures of a list or places in a clip the one of
    int(number · n).
    frame: (height, width) of the largest picture of the example, in whose pixels a crop is given; None without any.
    aspect: width / height of what the modalities show.
    crop: (top, left, height, width, flip), a row of `crop_settings`; None for the centre.
    fills: whether the crop may leave the picture; what lies beyond is then `pictures.outside`.
    edits: what is done to every crop of a picture, in order: (uint8[H, W, C], grey for what is outside) → the same.
    """

    number: float = 0.0
    frame: tuple[int, int] | None = None
    aspect: float = 1.0
    crop: np.ndarray | None = None
    fills: bool = False
    edits: tuple[Callable, ...] = ()


def look(example: dict, pictures, number: float) -> dict:
    """The example with its View, which shows the crop that its tokens are of, and one picture of each list of them.

    pictures: the modalities that are made of images. ValueError for what is no image, and for shapes that no one crop
    fits.
    """
    if not pictures:
        return example | {VIEW: View(number)}
    for m in pictures:
        (field,) = m.fields
        if isinstance(example.get(field), list):
            given = [picture for picture in example[field] if picture is not None]
            example = example | {field: kinds.of(m).choose(m, example, given, number) if given else None}
    images = {m.name: example.get(m.fields[0]) for m in pictures}
    for name, image in images.items():
        if not isinstance(image, np.ndarray | None):
            raise ValueError(
                f"modality {name!r}: row {example['row']} holds {image!r:.40}: pixels need an image, uint8[H, W, C]"
            )
    shapes = {m.name: kinds.of(m).size(images[m.name]) for m in pictures if images[m.name] is not None}
    frame = common_frame(shapes, f"row {example['row']}") if shapes else None
    height, width = pictures[0].shape[-3:-1]
    return example | {VIEW: fresh(View(frame=frame, aspect=width / height), example, number)}


def fresh(view: View, example: dict, number: float) -> View:
    """A View of the same pictures of which the number alone is drawn, and with it the crop that tokens are of."""
    crops = example.get(CROPS)
    crop = None if crops is None else crops[int(number * len(crops))]
    return View(number, view.frame, view.aspect, crop)
