"""Simulated scenes of coloured silhouettes of emoji, and a caption that names some of them."""

import functools
import zlib

import numpy as np
from PIL import Image

from data_pipeline.drawn import Drawn
from data_pipeline.sources import emoji

COLOURS = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (50, 80, 220),
    "yellow": (240, 200, 30), "pink": (240, 120, 200), "black": (20, 20, 20),
}  # fmt: skip
SHAPES = ("star", "key", "umbrella", "anchor", "cactus", "bus")
PAIRS = ("seen", "unseen", "all")
PLACES, LEAST = 3, 0.75  # places in a row of a scene, and the least side of an object in shares of one


class Source(Drawn):
    """Random access to scenes; what one shows hangs on its number, the split and the settings alone.

    An example is a dict of
      row: np.int64
      picture: uint8[side, side, 3], coloured silhouettes on white that do not touch, no two alike
      caption: "red star and blue bus", one or more of them
      boxes: float32[n, 4], left, top, right and bottom in 0…1 of those that are named, in the order of the caption
      phrases: {"text": the caption, "spans": [[(start, end)] of each box]}, characters
      pairs: float32[n, 2], number of the pair of colour and shape, colour · 6 + shape, and a confidence, which is 1
      shapes: uint8[side, side, 1], of each pixel 1 + the number of the shape in SHAPES that it shows, 0 of the ground

    Args:
      split: "train", "val" or "test", or a tuple of them: other scenes of the same silhouettes.
      scenes: of the training split; the others have a tenth.
      side: of the picture, in pixels. objects: of a scene; named: of these, from 1 to so many.
      pairs: which colours and shapes are named together: a third is `unseen`, of whose colour and whose shape others
        are `seen`; what is not named may be any.

    Raises:
      ValueError: unknown split, or settings out of range.
    """

    fields = frozenset({"picture", "caption", "boxes", "phrases", "pairs", "shapes"})

    def __init__(
        self, split="train", scenes: int = 10_000, side: int = 48, objects: int = 4, named: int = 3, pairs: str = "seen"
    ):
        super().__init__(split, scenes, 10)
        if scenes < 10 or side < 24 or not 1 <= named <= objects <= PLACES**2:
            raise ValueError(
                f"scenes={scenes}, side={side}, objects={objects}, named={named}: need at least 10 scenes of 24 pixels "
                f"and more, up to {PLACES**2} objects, and at most as many named"
            )
        if pairs not in PAIRS:
            raise ValueError(f"pairs={pairs!r}: must be one of {', '.join(PAIRS)}")
        self._scenes, self._side, self._objects = scenes, side, objects
        self._named, self._pairs = named, pairs

    def __getitem__(self, index: int) -> dict:
        split, at = self._place(index)
        rng = np.random.default_rng([zlib.crc32(f"{split} {self._pairs}".encode()), at])
        count = int(rng.integers(1, self._named + 1))
        chosen = rng.choice(which(self._pairs), count, replace=False)
        others = np.setdiff1d(np.arange(len(COLOURS) * len(SHAPES)), chosen)
        every = [*chosen, *rng.choice(others, self._objects - count, replace=False)]
        picture, boxes, shapes = draw(every, rng.permutation(PLACES**2), self._side, rng)
        names = [name(pair) for pair in chosen]
        starts = np.cumsum([0, *(len(n) + len(" and ") for n in names)])
        return {
            "row": np.int64(index),
            "picture": picture,
            "caption": (caption := " and ".join(names)),
            "boxes": boxes[:count],
            "phrases": {"text": caption, "spans": [[(int(a), int(a) + len(n))] for a, n in zip(starts, names)]},
            "pairs": np.stack([chosen, np.ones(count)], 1).astype(np.float32),
            "shapes": shapes,
        }

    def __repr__(self) -> str:
        return (
            f"coloured_emoji.Source(split={self._splits!r}, scenes={self._scenes}, side={self._side}, "
            f"objects={self._objects}, named={self._named}, pairs={self._pairs!r})"
        )


def draw(pairs, places, side: int, rng):
    """Silhouettes of some pairs, each at a place of PLACES × PLACES, counted by rows.

    Returns:
      (the picture uint8 `[side, side, 3]`, the boxes `[n, 4]` of the pairs, what shape each pixel shows uint8
      `[side, side, 1]`, 0 of the ground).
    """
    cell = side / PLACES
    picture, boxes, shapes = np.full((side, side, 3), 255, np.uint8), [], np.zeros((side, side, 1), np.uint8)
    for pair, place in zip(pairs, places):
        ink = silhouettes()[pair % len(SHAPES)]
        longest = rng.uniform(LEAST, 1.0) * cell
        size = [max(1, int(longest * n / max(ink.shape))) for n in ink.shape]
        corner = [int(p * cell + rng.uniform(0, cell - n)) for p, n in zip(divmod(place, PLACES), size)]
        resized = Image.fromarray(ink).resize(size[::-1], Image.Resampling.BOX)
        mixed = np.asarray(resized, np.float32)[..., None] / 255
        (top, left), (high, wide) = corner, size
        colour = list(COLOURS.values())[pair // len(SHAPES)]
        where = slice(top, top + high), slice(left, left + wide)
        picture[where] = np.rint(mixed * colour + (1 - mixed) * picture[where])
        shapes[where][mixed > 0.5] = 1 + pair % len(SHAPES)
        boxes.append([left, top, left + wide, top + high])
    return picture, np.array(boxes, np.float32) / side, shapes


def name(pair: int) -> str:
    """Of a pair of colour and shape: "red star"."""
    return f"{list(COLOURS)[pair // len(SHAPES)]} {SHAPES[pair % len(SHAPES)]}"


def which(pairs: str) -> np.ndarray:
    """The numbers of the pairs of colour and shape that are seen, or unseen, or all."""
    every = np.arange(len(COLOURS) * len(SHAPES))
    unseen = (every // len(SHAPES) + every % len(SHAPES)) % 3 == 0
    return {"seen": every[~unseen], "unseen": every[unseen], "all": every}[pairs]


@functools.cache
def silhouettes() -> tuple[np.ndarray, ...]:
    """The ink of each of SHAPES, uint8[h, w], 255 where there is some, cut to where it lies."""
    corpus, found = emoji.Source("all"), []
    rows = {meta["name"]["en"]: i for i, meta in enumerate(emoji.metadata())}
    for name in SHAPES:
        ink = 255 - corpus[rows[name]]["mask"][..., 0]
        down, across = (np.flatnonzero((ink > 127).any(axis)) for axis in (1, 0))
        found.append(ink[down[0] : down[-1] + 1, across[0] : across[-1] + 1])
    return tuple(found)
