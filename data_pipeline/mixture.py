"""Several sources as one: each is shuffled and repeated by itself, and they take turns by their weights."""

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence

import grain
import numpy as np

ONLY = "__modalities__"  # of an example: those that it is to have, whatever fields it holds
SOURCE = "__source__"  # of an example: the number of the source that it comes from


def shuffled(source, seed: int, start: int = 0) -> grain.MapDataset:
    """The numbers of a source's examples, from `start` on, endlessly, every time in another order.

    Grain carries numbers, not examples: it would count the bytes of every field of every example that it reads.
    """
    return grain.MapDataset.range(start, start + len(source)).seed(seed).shuffle().repeat()


def pick(source, index: int, fields, texts=()) -> dict:
    """An example of any source. Of one that reads field by field these fields alone, those of `texts` not as files."""
    return source.pick(index, fields, texts) if hasattr(source, "pick") else source[index]


class Part:
    """A source as a mixture sees it.

    modalities: which of the run's its examples have, () for all that they hold; fields: {field that modalities are made
    from: field of this source}; number: which of the run's sources it is, what a batch's `source` says; start: what is
    added to its numbers, so that `row` is unique in the mixture.
    """

    def __init__(
        self, source, modalities: Sequence[str] = (), fields: Mapping[str, str] | None = None, number: int = 0
    ):
        self.source, self.modalities, self.number, self.start = source, tuple(modalities), number, 0
        self._fields = dict(fields or {})
        known = getattr(source, "fields", None)
        for field in self._fields.values() if known is not None else ():
            if field not in known:
                raise ValueError(f"fields: {source!r} has no {field!r}; it has {', '.join(sorted(known))}")

    @property
    def fields(self) -> frozenset[str] | None:
        known = getattr(self.source, "fields", None)
        return None if known is None else frozenset(known) | self._fields.keys()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        return self._renamed(self.source[index], index)

    def pick(self, index: int, fields, texts=()) -> dict:
        """The example with these fields alone, if the source can tell them apart."""
        own, plain = ({self._fields.get(name, name) for name in names} for names in (fields, texts))
        return self._renamed(pick(self.source, index, own, plain), index)

    def _renamed(self, example, index) -> dict:
        named = {name: example[field] for name, field in self._fields.items() if field in example}
        only = {ONLY: frozenset(self.modalities)} if self.modalities else {}
        return example | named | only | {"row": np.int64(self.start + index), SOURCE: self.number}

    def __repr__(self) -> str:
        names = f", fields={self._fields}" if self._fields else ""
        return f"{self.source!r}{names}{f', modalities={self.modalities}' if self.modalities else ''}"


class Source:
    """Random access to the examples of all parts one after another, and `stream`, what training draws.

    An example is that of its part; `row` is np.int64, its number in the mixture.

    Args:
      parts: `Part`s.
      weights: of each part; all 0 for size^(1 / temperature) (arXiv 1907.05019, section 4.2): 1 shows every example
        equally often, a large temperature every source.

    Raises:
      ValueError: some weights are 0 and others not, or negative; an empty part.
    """

    def __init__(self, parts: Iterable[Part], weights: Sequence[float], temperature: float = 1.0):
        self.parts = tuple(parts)
        if any(weights) and (min(weights) <= 0 or temperature != 1.0):
            raise ValueError(
                f"weights={list(weights)}, temperature={temperature}: give every source a weight above 0 and no "
                "temperature, or none a weight"
            )
        empty = [part for part in self.parts if not len(part)]
        if empty:
            raise ValueError(f"{empty[0]!r} is empty: fill it or leave it out")
        sizes = np.array([len(part) for part in self.parts], float)
        weights = np.asarray(weights, float) if any(weights) else sizes ** (1 / temperature)
        # Grain takes turns by whole numbers of which the least is 100.
        self._turns = np.round(100 * weights / weights.min()).astype(int).tolist()
        self._ends = list(itertools.accumulate(len(part) for part in self.parts))
        for part, end in zip(self.parts, self._ends):
            part.start = end - len(part)

    @property
    def shares(self) -> list[float]:
        """How much of the stream comes from each part."""
        return [turn / sum(self._turns) for turn in self._turns]

    @property
    def fields(self) -> frozenset[str] | None:
        """All keys that some example has; None if a part cannot tell."""
        known = [part.fields for part in self.parts]
        return None if None in known else frozenset().union(*known)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict:
        part = self._part(index)
        return part[index - part.start]

    def pick(self, index: int, fields, texts=()) -> dict:
        part = self._part(index)
        return part.pick(index - part.start, fields, texts)

    def _part(self, index) -> Part:
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        return self.parts[bisect.bisect_right(self._ends, index)]

    def stream(self, seed: int) -> grain.MapDataset:
        """Numbers of examples, endlessly; a part shows all of its own, in another order each time, before one again."""
        return self.mix(self.streams(seed), seed)

    def streams(self, seed: int) -> list[grain.MapDataset]:
        """The numbers of each part's examples, endlessly."""
        return [shuffled(part, seed + number, part.start) for number, part in enumerate(self.parts)]

    def mix(self, streams, seed: int) -> grain.MapDataset:
        """What is there of each part, in turns by their weights."""
        return grain.MapDataset.mix(streams, self._turns).seed(seed)

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the data change, and only then.
        turns = ", ".join(f"{turn}× {part!r}" for turn, part in zip(self._turns, self.parts))
        return f"mixture.Source({turns})"
