"""Clips; `shape` is (frames, height, width, channels). Only tokenizers read them."""

import numpy as np

from data_pipeline.kinds import base, pixels


class Kind(pixels.Kind):
    """A field holds a clip, of which as many frames in a row are shown as the shape has, or a list of its frames."""

    rank, lists = 4, ("modalities",)

    def check(self, m, fail):
        base.no_range(m, fail)
        if m.vocab_size or m.patch:
            fail("vocab_size, patch", (m.vocab_size, m.patch), "must be 0: only tokenizers read clips")

    def readable(self, m):
        return False

    def grid(self, m):
        return ()

    def width(self, m):
        return 0

    def choose(self, m, example, given, number):
        if len({np.shape(picture) for picture in given}) > 1:
            raise base.misfit(m, example, "pictures of one size, the frames of a clip")
        return np.stack(given)

    def size(self, value):
        return value.shape[1:3]

    def rows(self, m, values):
        return base.Kind.rows(self, m, values)

    def images(self, m, example, given, number):
        if given.dtype != np.uint8 or given.ndim != 4 or len(given) < m.shape[0]:
            raise ValueError(
                f"modality {m.name!r}: shape={m.shape}, but row {example['row']} has {given.dtype}{list(given.shape)}: "
                f"it must be uint8[T, H, W, C], T at least {m.shape[0]}"
            )
        first = int(number * (len(given) - m.shape[0] + 1))
        return list(given[first : first + m.shape[0]])
