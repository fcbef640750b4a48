"""Clips of the emoji corpus, to try video tokenizers: each emoji moves over white and turns back at the borders."""

import numpy as np

from data_pipeline.image import centre_crop
from data_pipeline.sources import emoji


class Source:
    """Random access to one clip for each emoji of one or several splits.

    An example is a dict of
      row: np.int64, the number of the emoji in the whole corpus
      clip: uint8[frames, size, size, 3], the emoji at half the size; where it starts and where it goes hangs on the row
      name: {language: str}

    Args:
      split: as of the source `emoji`.
      frames, size: of a clip.

    Raises:
      ValueError: unknown split, fewer than 1 frame or 8 pixels.
    """

    fields = frozenset({"clip", "name"})

    def __init__(self, split="train", frames: int = 9, size: int = 32):
        if frames < 1 or size < 8:
            raise ValueError(f"frames={frames}, size={size}: must be at least 1 and 8")
        self._emoji, self._frames, self._size = emoji.Source(split), frames, size

    available = staticmethod(emoji.Source.available)

    def __len__(self) -> int:
        return len(self._emoji)

    def __getitem__(self, index: int) -> dict:
        example = self._emoji[index]
        rng = np.random.default_rng(int(example["row"]))
        side = self._size // 2
        picture, room = centre_crop(example["render3d"], side), self._size - side
        start, speed = rng.uniform(0, room, 2), rng.uniform(-room / 4, room / 4, 2)
        at = np.abs((start + speed * np.arange(self._frames)[:, None] + room) % (2 * room) - room)  # folded at borders
        clip = np.full((self._frames, self._size, self._size, 3), 255, np.uint8)
        for image, (y, x) in zip(clip, np.round(at).astype(int)):
            image[y : y + side, x : x + side] = picture
        return {"row": example["row"], "clip": clip, "name": example["name"]}

    def __repr__(self) -> str:
        return f"moving_emoji.Source({self._emoji!r}, frames={self._frames}, size={self._size})"
