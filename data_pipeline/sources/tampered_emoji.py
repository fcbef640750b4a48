"""Simulated forgeries: a picture that was compressed as JPEG, with an area of another one, which was not, in it."""

import functools
import io
import zlib

import numpy as np
from PIL import Image

from data_pipeline.drawn import Drawn
from data_pipeline.sources import emoji

SIDE, INNER = 64, 40  # pixels of a picture, and of the middle of an emoji that fills it
QUALITY, AREA = (50, 80), (16, 32)  # of the picture's compression, and sides of what is pasted: the least, the most


class Source(Drawn):
    """Random access to forgeries; what one shows hangs on its number, the split and the settings alone.

    An example is a dict of
      row: np.int64
      picture: uint8[64, 64, 3], the middle of an emoji, with a rectangle of another one
      tampered: uint8[64, 64, 1], 1 in that rectangle, else 0

    Args:
      split: "train", "val" or "test", or a tuple of them: of the emoji of these.
      pictures: of the training split; the others have a tenth.

    Raises:
      ValueError: unknown split, or fewer than 10 pictures.
    """

    fields = frozenset({"picture", "tampered"})

    def __init__(self, split="train", pictures: int = 2000):
        super().__init__(split, pictures, 10)
        if pictures < 10:
            raise ValueError(f"pictures={pictures}: need at least 10, a tenth of which are held out")
        self._pictures = pictures

    def __getitem__(self, index: int) -> dict:
        split, at = self._place(index)
        rng, corpus = np.random.default_rng([zlib.crc32(split.encode()), at]), _corpus(split)
        host, other = (_filled(corpus[int(i)]["render3d"]) for i in rng.choice(len(corpus), 2, replace=False))
        picture, file = host, io.BytesIO()
        Image.fromarray(host).save(file, "JPEG", quality=int(rng.integers(QUALITY[0], QUALITY[1] + 1)))
        picture = np.array(Image.open(file))
        size = rng.integers(AREA[0], AREA[1] + 1, 2)
        (top, left), (down, right) = (corner := rng.integers(0, SIDE - size + 1)), corner + size
        picture[top:down, left:right] = other[top:down, left:right]
        tampered = np.zeros((SIDE, SIDE, 1), np.uint8)
        tampered[top:down, left:right] = 1
        return {"row": np.int64(index), "picture": picture, "tampered": tampered}

    def __repr__(self) -> str:
        return f"tampered_emoji.Source(split={self._splits!r}, pictures={self._pictures})"


@functools.cache
def _corpus(split: str):
    return emoji.Source(split)


def _filled(picture) -> np.ndarray:
    """The middle of a picture of an emoji, in its size: next to none of the paper around."""
    edge = (emoji.CELL - INNER) // 2
    middle = Image.fromarray(picture[edge : edge + INNER, edge : edge + INNER])
    return np.asarray(middle.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
