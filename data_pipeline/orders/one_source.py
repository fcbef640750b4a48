"""Blocks of examples of one source of a mixture: with the run's batch size, one task a batch."""

import dataclasses

import grain

from data_pipeline import mixture


@dataclasses.dataclass(frozen=True)
class Order:
    """size: so many examples in a row are of one source, which must divide the batch size or be it.

    Blocks take turns by the weights of the sources, each of which is shuffled by itself as `shuffle` does it.
    """

    size: int

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"one_source.size={self.size}: must be at least 1: take the batch size")

    def __call__(self, source, seed: int) -> grain.MapDataset:
        if not isinstance(source, mixture.Source):
            raise ValueError(f"data.order: one_source needs a mixture; {source!r} is one source: take shuffle")
        streams = source.streams(seed)
        blocks = [_Blocks(stream, number, self.size) for number, stream in enumerate(streams)]
        return _InBlocks(source.mix(blocks, seed), streams, self.size)


class _Blocks(grain.MapDataset):
    """(number of the stream, where in it a block begins), block after block."""

    def __init__(self, stream, number: int, size: int):
        super().__init__(stream)
        self._number, self._size = number, size

    def __len__(self):
        return len(self._parent)

    def __getitem__(self, index):
        return self.slice(index) if isinstance(index, slice) else (self._number, index * self._size)


class _InBlocks(grain.MapDataset):
    """The examples of blocks, one after another."""

    def __init__(self, blocks, streams: list, size: int):
        super().__init__(blocks)
        self._streams, self._size = streams, size

    def __len__(self):
        return len(self._parent)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        block, at = divmod(index, self._size)
        number, start = self._parent[block]
        return self._streams[number][start + at]
