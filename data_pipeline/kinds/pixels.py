"""Raw images, cut into patches where a network reads them; `shape` is (height, width, channels).

Input only for a trunk. Among a run's labels they are maps of classes.
"""

import math

import numpy as np

from data_pipeline.derived import derive
from data_pipeline.kinds import base
from data_pipeline.pictures import as_bytes, outside, read_pictures
from data_pipeline.view import VIEW, View


class Kind(base.Kind):
    """A field holds an image, or a list of them of which one is drawn; `NAME:FIELD` is derived from FIELD."""

    rank, form, lists = 3, "pixels", ("modalities", "labels")
    dense = pictures = True

    def check(self, m, fail):
        derive(m.field)
        if m.vocab_size > 256 or (m.vocab_size and ":" in m.field):
            fail("vocab_size", m.vocab_size, "at most 256 classes of a map that is read: its pixels are bytes")
        if m.range:
            ascending = len(m.range) == 2 and -math.inf < m.range[0] < m.range[1] < math.inf
            if not ascending or m.vocab_size or ":" in m.field:
                base.no_range(m, fail)
            if m.shape[2] != 1 and (m.shape[2] != 3 or m.resample != "nearest"):
                fail("range", m.range, "needs one channel, or three, its digits, with resample='nearest'")
        if m.targets and m.patch:
            fail("targets", True, "pixels can only be input: set targets=False")
        if m.patch and (m.shape[0] % m.patch or m.shape[1] % m.patch):
            fail("patch", m.patch, f"must divide the height and width of pixels of shape {m.shape}")
        for key in ("mean", "std"):
            if m.patch and len(getattr(m, key)) != m.shape[-1]:
                fail(key, getattr(m, key), f"give one number for each of the {m.shape[-1]} channels")

    def readable(self, m):
        return m.patch > 0

    def grid(self, m):
        return tuple(n // max(m.patch, 1) for n in m.shape[:2])

    def width(self, m):
        return m.patch**2 * m.shape[2]

    def dtype(self, m):
        return "uint8"

    def fields(self, m):
        return (m.field.rpartition(":")[2],)

    def choose(self, m, example: dict, given: list, number: float):
        """What is shown of a list of pictures, by the number of the example's `View`."""
        return given[int(number * len(given))]

    def size(self, value) -> tuple[int, int]:
        """(height, width) of what a field holds, with or without an axis of channels."""
        return value.shape[:2]

    def images(self, m, example: dict, given, number: float) -> list:
        """What a field holds → the images to be cropped."""
        return [as_bytes(example, m, given)]

    def read(self, m, example, rng, encode):
        view = example.get(VIEW, View())
        picture = read_pictures(example, m, view.crop, view.frame, view.number, outside(m) if view.fills else None)
        for edit in view.edits if picture is not None else ():
            picture = edit(picture, outside(m))
        return picture

    def pad(self, m, parts, rows):
        """Pictures or clips, None for none, → {"pixels" `[B, …, H, W, C]`, "valid" `[B]`}."""
        pixels = np.zeros((len(parts), *m.shape), np.uint8)
        for padded, part in zip(pixels, parts):
            if part is not None:
                padded[...] = part
        return {"pixels": pixels, "valid": np.array([part is not None for part in parts])}

    def rows(self, m, values):
        """uint8 `[B, H, W, C]` → normalised, cut into patches, each (row, column, channel)."""
        x = (values / np.float32(255) - np.asarray(m.mean, np.float32)) / np.asarray(m.std, np.float32)
        (high, wide), p = m.grid, m.patch
        x = x.reshape(len(x), high, p, wide, p, -1).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(len(x), high * wide, -1)

    def synthetic(self, m, size, rng):
        return {"pixels": rng.integers(256, size=(size, *m.shape), dtype=np.uint8), "valid": np.ones(size, bool)}
