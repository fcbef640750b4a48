"""Tars of webdataset: members KEY.EXT, such as 0001.jpg, 0001.txt and 0001.json, are the fields of example 0001."""

import numpy as np

from data_pipeline.decoding import kind_of
from data_pipeline.folders import Ignored
from data_pipeline.shards import find_shards, find_splits
from data_pipeline.tar import read_index


class Source:
    """Random access to the examples of one or several splits, in the order of the tars and of the keys in them.

    Fields of an example, each as `data_pipeline.decoding` reads it:
      image: of 0001.jpg, .png, … ; left: of 0001.left.jpg, as of every other name with two suffixes
      txt, cls, npy, …: of 0001.txt and so on, by the suffix; an unknown one gives the bytes
      the keys of the object in 0001.json; a null is absent
      row: np.int64, its number in the given splits

    Args:
      path: a folder or a pattern, see `shards.find_shards`; local or mounted.
      split: a name or a tuple of them.
      outside: whether links may lead out of the folder, see `data_pipeline.folders`.

    Raises:
      ValueError: unknown split, no example at all, a broken tar, a member twice, two members of one field; on reading,
        a broken member.
    """

    def __init__(self, path, split="train", outside: bool = False):
        splits, ignored = (split,) if isinstance(split, str) else tuple(split), Ignored()
        shards = [shard for name in splits for shard in find_shards(path, name, ".tar", outside, ignored)]
        self._index = read_index(shards)
        self.report = "; ".join(filter(None, [str(ignored), *self._index.report]))
        if not len(self._index):
            raise ValueError(f"split={split!r}: the {len(self._index.shards)} tars in {path} hold no KEY.EXT")
        self._columns = {}
        for number, ext in enumerate(self._index.columns):
            self._columns.setdefault(_field(ext), []).append(number)
        for field, columns in self._columns.items():
            held = (self._index.place[:, columns, 0] >= 0).sum(1)
            if held.max() > 1:
                row = int(held.argmax())
                names = ", ".join(f".{self._index.columns[c]}" for c in columns if self._index.has(row, c))
                raise ValueError(f"{self._index.where(row)}: {names} are all its {field!r}; keep one")

    @property
    def fields(self) -> frozenset[str]:
        """All fields that some example has."""
        objects = self._index.json_keys
        return objects | (self._columns.keys() - {"json"} if objects else self._columns.keys())

    @staticmethod
    def available(path) -> list[str]:
        """The splits that a folder has."""
        return find_splits(path, ".tar")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict:
        return self.pick(index, self.fields)

    def pick(self, index: int, fields, texts=()) -> dict:
        """The example with these fields alone; other members are not read."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        example = {}
        for field, columns in self._columns.items():
            wanted = field in fields or (field == "json" and not self._index.json_keys.isdisjoint(fields))
            for column in columns if wanted else ():
                if self._index.has(index, column):
                    example[field] = self._index.read(index, column)
        if isinstance(example.get("json"), dict):
            found = {k: v for k, v in example.pop("json").items() if v is not None and k in fields}
            twice = sorted(found.keys() & self._columns.keys())
            if twice:
                raise ValueError(f"{self._index.where(index)}.json: {twice[0]!r} is a member of its own, too; keep one")
            example |= found
        return example | {"row": np.int64(index)}

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the members change, and only then.
        return f"webdataset.Source(examples={len(self)}, members={self._index.digest})"


def _field(ext: str) -> str:
    """`jpg` → image, `left.jpg` → left, `txt` → txt."""
    name, dot, _ = ext.rpartition(".")
    if dot:
        return name
    return "image" if kind_of(f".{ext}") == "image" else ext
