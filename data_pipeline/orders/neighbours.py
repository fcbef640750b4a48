"""Batches of near duplicates: an example, and some of those that lie nearest to it (OpenShape, arXiv 2305.10764)."""

import dataclasses

import grain
import numpy as np

from data_pipeline import mixture
from data_pipeline.folders import printable
from data_pipeline.orders import shuffle

BLOCK = 1024  # examples that are compared with all at once


@dataclasses.dataclass(frozen=True)
class Order:
    """size: so many examples in a row belong together, which must divide the batch size: the first comes as `shuffle`
    has it, the others are drawn from the `among` nearest to it, each once.

    path: an array that NumPy saved, int `[examples, among or more]`, of each the numbers of its nearest examples, the
    nearest first, itself not among them; or field: of every example numbers, a frozen embedding of it, whose cosines
    say which are near: they are compared at the start, n² of n examples.
    """

    size: int
    among: int = 31
    path: str = ""
    field: str = ""

    def __post_init__(self):
        if not 2 <= self.size <= self.among + 1:
            raise ValueError(
                f"neighbours.size={self.size}: must be at least 2 and at most among + 1 = {self.among + 1}"
            )
        if bool(self.path) == bool(self.field):
            raise ValueError(f"neighbours.path={self.path!r}, field={self.field!r}: name one of them")

    def __call__(self, source, seed: int) -> grain.MapDataset:
        found = self.nearest(source)
        return _Groups(shuffle.Order()(source, seed), found, self.size, seed)

    def nearest(self, source) -> np.ndarray:
        """int `[examples, among]`: of each the numbers of its nearest, the nearest first."""
        return self._read(source) if self.path else self._compare(source)

    def _read(self, source):
        found = np.load(self.path, mmap_mode="r")
        if found.ndim != 2 or found.dtype.kind not in "iu" or len(found) != len(source) or found.shape[1] < self.among:
            raise ValueError(
                f"neighbours.path={printable(self.path)}: {found.dtype}{list(found.shape)}; it must be numbers "
                f"[{len(source)} examples, {self.among} or more]"
            )
        found = np.asarray(found[:, : self.among])
        wrong = (found < 0) | (found >= len(source)) | (found == np.arange(len(found))[:, None])
        if wrong.any():
            row = int(wrong.any(1).argmax())
            raise ValueError(
                f"neighbours.path={printable(self.path)}: row {row} names {int(found[row][wrong[row]][0])}: it must be "
                f"another example of 0…{len(source) - 1}"
            )
        return found

    def _compare(self, source):
        if len(source) <= self.among:
            raise ValueError(
                f"neighbours.among={self.among}: the {len(source)} examples have no more than that: take less"
            )
        rows = []
        for i in range(len(source)):
            value = mixture.pick(source, i, {self.field}).get(self.field)
            if value is None:
                raise ValueError(f"neighbours.field={self.field!r}: example {i} of {source!r} has none; name another")
            rows.append(np.ravel(np.asarray(value, np.float32)))
        x = np.stack(rows)
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        found = []
        for start in range(0, len(x), BLOCK):
            near = x[start : start + BLOCK] @ x.T
            near[np.arange(len(near)), start + np.arange(len(near))] = -np.inf
            some = np.argpartition(-near, self.among - 1, axis=1)[:, : self.among]
            order = np.argsort(-np.take_along_axis(near, some, 1), axis=1, kind="stable")
            found.append(np.take_along_axis(some, order, 1))
        return np.concatenate(found).astype(np.int32)


class _Groups(grain.MapDataset):
    """The examples of groups, one after another."""

    def __init__(self, seeds, nearest, size: int, seed: int):
        super().__init__(seeds)
        self._nearest, self._size, self._seed = nearest, size, seed

    def __len__(self):
        return len(self._parent)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        group, at = divmod(index, self._size)
        first = self._parent[group]
        if not at:
            return first
        chosen = np.random.default_rng([self._seed, group]).permutation(self._nearest.shape[1])[at - 1]
        return int(self._nearest[first, chosen])
