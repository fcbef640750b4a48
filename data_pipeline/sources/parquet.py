"""Parquet files, such as those of Hugging Face data sets (extra `parquet`): a row is an example, a column a field."""

import functools
import hashlib
import io
import threading

import numpy as np

from data_pipeline.decoding import decode
from data_pipeline.shards import find_shards

OPEN = 4  # row groups held by a process


class Source:
    """Random access to the rows of one or several splits, in the order of the files and in them.

    Strings, numbers, booleans, dicts and lists of strings stay what they are; lists of numbers become arrays. Binary
    columns, and the {"bytes", "path"} of Hugging Face, are encoded images: uint8[H, W, 3], or [H, W, 1] of grey ones.
    A null is absent. `row` is np.int64, the number in the given splits.

    A row is read with its row group, of which a process holds a few: shuffled reading wants small ones
    (`write_table(…, row_group_size=100)`).

    Args:
      path: a folder or a pattern, see `shards.find_shards`.
      split: a name or a tuple of them.

    Raises:
      ValueError: unknown split, no row at all, a file that is no Parquet; on reading, a broken row group or image.
    """

    def __init__(self, path, split="train"):
        splits = (split,) if isinstance(split, str) else tuple(split)
        self._files = [str(f) for name in splits for f in find_shards(path, name, ".parquet")]
        self._groups, digest, columns = [], hashlib.sha256(), set()
        for number, name in enumerate(self._files):
            file = _open(name)
            meta = file.metadata
            self._groups += [(number, g, meta.row_group(g).num_rows) for g in range(meta.num_row_groups)]
            digest.update(repr(meta.to_dict()).encode())  # names, counts, sizes and statistics of the columns
            columns |= set(file.schema_arrow.names)
        self._ends = np.cumsum([rows for _, _, rows in self._groups], dtype=np.int64)
        if not len(self._ends) or not self._ends[-1]:
            raise ValueError(f"split={split!r}: the {len(self._files)} files in {path} hold no row")
        self.fields, self._digest = frozenset(columns), digest.hexdigest()[:12]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        return self._read(index)

    def peek(self, index: int) -> dict:
        """The example without its images: none is decoded."""
        return self._read(index, images=False)

    def _read(self, index, images=True) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        number = int(np.searchsorted(self._ends, index, "right"))
        file, group, rows = self._groups[number]
        at = int(index - self._ends[number] + rows)
        name, example = self._files[file], {"row": np.int64(index)}
        for column, value in _row_group(name, group).slice(at, 1).to_pylist()[0].items():
            if value is None:
                continue
            data = value.get("bytes") if isinstance(value, dict) and value.keys() == {"bytes", "path"} else value
            if not isinstance(data, bytes):
                example[column] = _plain(value)
            elif images:
                where = f"{name}: row {at} of row group {group}: {column}"
                example[column] = decode(io.BytesIO(data), "image", where)
        return example

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the files change, and only then.
        return f"parquet.Source(examples={len(self)}, files={self._digest})"


def _plain(value):
    numbers = isinstance(value, list) and value and isinstance(np.ravel(value)[0], np.number)
    return np.asarray(value) if numbers else value


_READING = threading.Lock()


def _row_group(name: str, group: int):
    # The lock keeps threads that want the same row group from each reading it.
    with _READING:
        return _read_row_group(name, group)


@functools.lru_cache(OPEN)
def _read_row_group(name: str, group: int):
    try:
        return _open(name).read_row_group(group)
    except Exception as e:  # pyarrow raises OSError and its own kinds
        raise ValueError(f"{name}: row group {group} is not readable ({e}); restore the file") from e


@functools.lru_cache(64)
def _open(name: str):
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError("the source `parquet` needs pyarrow: pip install 'tokenloom[parquet]'") from e
    try:
        # Not mapped into memory: a file that is cut while it is open would end the process without a word.
        return pyarrow.parquet.ParquetFile(name)
    except (pyarrow.ArrowException, OSError) as e:
        raise ValueError(f"{name}: no whole Parquet file ({e}); restore it or take it out") from e
