"""Emoji as clouds of coloured points, drawn from their silhouettes, beside their pictures by other designers."""

import zlib

import numpy as np

from data_pipeline.sources import emoji

STYLES = ("flat", "noto", "line", "mono")  # of the views; the two last have no colours
SIDE, KIND = {name: i for i, name in enumerate(STYLES)}, dict(flat=0, noto=0, line=1, mono=1)
SMALL = 16  # pixels of a side of a view


class Source:
    """Random access to the emoji of some splits (`sources.emoji`), in the same order. The points are simulated: a
    silhouette is blown up as a cushion, and its front is coloured as the 3D picture is.

    An example is a dict of
      row, id, name, keywords, group, subgroup: as in `sources.emoji`
      points: float32[points, 6], x, y, z in a ball of radius 1 and red, green and blue in 0…1; the same every time
      views: float32[4, 2 + 768], of each of `STYLES` its number, whether it has colours (0) or none (1), and 16 × 16
        pixels in −1…1

    Args:
      split: as in `sources.emoji`. points: of a cloud.
      wrong: the share of views, drawn once for all, that show another emoji of the same splits.

    Raises:
      ValueError: settings out of range.
    """

    fields = frozenset({"points", "views", "id", "name", "keywords", "group", "subgroup"})

    def __init__(self, split="train", points: int = 256, wrong: float = 0.0):
        if points < 1 or not 0 <= wrong < 1:
            raise ValueError(f"points={points}, wrong={wrong}: need a point, and a share of at least 0 and below 1")
        self._emoji, self._points, self._wrong = emoji.Source(split), points, wrong

    @staticmethod
    def available() -> list[str]:
        return emoji.Source.available()

    def __len__(self) -> int:
        return len(self._emoji)

    def __getitem__(self, index: int) -> dict:
        e = self._emoji[index]
        rng = np.random.default_rng([zlib.crc32(e["id"].encode()), 1])
        shown = [self._emoji[int(rng.integers(len(self)))] if rng.random() < self._wrong else e for _ in STYLES]
        views = np.stack([view(other, style) for other, style in zip(shown, STYLES)])
        kept = {name: e[name] for name in self.fields - {"points", "views"}}
        return kept | {"row": e["row"], "points": cloud(e, self._points), "views": views}

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the data change, and only then.
        return f"emoji_points.Source({self._emoji!r}, points={self._points}, wrong={self._wrong})"


def view(example: dict, style: str) -> np.ndarray:
    """float32 `[2 + 768]` of one picture of an emoji."""
    picture = np.broadcast_to(example[style], (emoji.CELL, emoji.CELL, 3)).astype(np.float32)
    step = emoji.CELL // SMALL
    small = picture.reshape(SMALL, step, SMALL, step, 3).mean((1, 3)) / 127.5 - 1
    return np.concatenate([[SIDE[style], KIND[style]], small.ravel()]).astype(np.float32)


def cloud(example: dict, count: int) -> np.ndarray:
    """float32 `[count, 6]` of an emoji."""
    inside = example["mask"][..., 0] < 128
    inside = inside if inside.any() else np.ones_like(inside)
    rng = np.random.default_rng(zlib.crc32(example["id"].encode()))
    depth = thickness(inside)
    rows, columns = np.nonzero(inside)
    chosen = rng.integers(len(rows), size=count)
    at = rows[chosen], columns[chosen]
    x, y = columns[chosen] + rng.random(count), -(rows[chosen] + rng.random(count))
    z = depth[at] * np.where(rng.random(count) < 0.5, -1, 1)
    places = np.stack([x, y, z], 1)
    places -= (places.max(0) + places.min(0)) / 2
    places /= max(np.linalg.norm(places, axis=1).max(), 1e-6)
    return np.concatenate([places, example["render3d"][at] / 255], 1).astype(np.float32)


def thickness(inside) -> np.ndarray:
    """How far each pixel is from what is outside, in steps to one of its eight neighbours."""
    left, steps = np.pad(inside, 1), np.zeros(inside.shape)
    while left.any():
        steps += left[1:-1, 1:-1]
        sides = [left[i : i + inside.shape[0], j : j + inside.shape[1]] for i in range(3) for j in range(3)]
        left = np.pad(np.logical_and.reduce(sides), 1)
    return steps
