"""Sources whose examples are drawn, each by its split and its number there."""

import numpy as np

from data_pipeline.sources import emoji


class Drawn:
    """Examples of one split or several, one behind another."""

    available = staticmethod(emoji.Source.available)

    def __init__(self, split, count: int, share: int):
        """count: of the examples of `train`; the other splits have 1 / share as many. ValueError: unknown split."""
        self._splits = (split,) if isinstance(split, str) else tuple(split)
        if not self._splits or not set(self._splits) <= set(emoji.SPLITS):
            raise ValueError(f"split={split!r} is unknown: use one of {emoji.SPLITS} or a tuple of them")
        self._ends = np.cumsum([count if name == "train" else count // share for name in self._splits])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, index: int) -> tuple[str, int]:
        """(split, number in it) of an example."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._splits[part], int(index - (self._ends[part - 1] if part else 0))
