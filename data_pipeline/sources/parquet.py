"""Parquet files, such as those of Hugging Face data sets (extra `parquet`): a row is an example, a column a field."""

import datetime
import functools
import hashlib
import io
import threading
from decimal import Decimal

import numpy as np

from data_pipeline.decoding import decode
from data_pipeline.folders import Ignored, data_file
from data_pipeline.shards import find_shards, find_splits, root_of

OPEN = 4  # row groups held by a process


class Source:
    """Random access to the rows of one or several splits, in the order of the files and in them.

    Strings, numbers, booleans, dicts and lists of strings stay what they are; lists of numbers become arrays, dates and
    decimals texts. Binary values, and the {"bytes", "path"} of Hugging Face, are encoded images, in lists and dicts
    too: uint8[H, W, 3], or [H, W, 1] of grey ones; of a path alone, relative to the folder of the source, the file is
    read. A null is absent. `row` is np.int64, the number in the given splits.

    A row is read with its row group, of which a process holds a few: shuffled reading wants small ones
    (`write_table(…, row_group_size=100)`). Columns that are not asked for are not read.

    Args:
      path: a folder or a pattern, see `shards.find_shards`.
      split: a name or a tuple of them.
      outside: whether links and paths may lead out of the folder, see `data_pipeline.folders`.

    Raises:
      ValueError: unknown split, no row at all, a file that is no Parquet; on reading, a broken row group or image.
    """

    def __init__(self, path, split="train", outside: bool = False):
        splits, ignored = (split,) if isinstance(split, str) else tuple(split), Ignored()
        files = [f for name in splits for f in find_shards(path, name, ".parquet", outside, ignored)]
        self._files = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]  # one of this name may change
        self._root, self._outside, self.report = root_of(path), outside, str(ignored)
        self._groups, digest, columns = [], hashlib.sha256(), set()
        for number, (name, *stamp) in enumerate(self._files):
            file = _open(name, *stamp)
            meta, names = file.metadata, file.schema_arrow.names
            if twice := [column for column in names if names.count(column) > 1]:
                raise ValueError(f"{name}: the column {twice[0]!r} is there twice; rename one")
            self._groups += [(number, g, meta.row_group(g).num_rows) for g in range(meta.num_row_groups)]
            footer = io.BytesIO()
            meta.write_metadata_file(footer)  # names, counts, sizes and statistics of the columns
            digest.update(footer.getvalue())
            columns |= set(names)
        self._ends = np.cumsum([rows for _, _, rows in self._groups], dtype=np.int64)
        if not len(self._ends) or not self._ends[-1]:
            raise ValueError(f"split={split!r}: the {len(self._files)} files in {path} hold no row")
        self.fields, self._digest = frozenset(columns), digest.hexdigest()[:12]

    @staticmethod
    def available(path) -> list[str]:
        """The splits that a folder has."""
        return find_splits(path, ".parquet")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        return self.pick(index, self.fields)

    def pick(self, index: int, fields, texts=()) -> dict:
        """The example with these fields alone."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        number = int(np.searchsorted(self._ends, index, "right"))
        file, group, rows = self._groups[number]
        at = int(index - self._ends[number] + rows)
        (name, *_), example = self._files[file], {}
        table = _row_group(self._files[file], group, rows, self.fields.intersection(fields))
        for column in table.column_names:
            where = f"{name}: row {at} of row group {group}: {column}"
            value = self._value(_scalar(table[column][at], where), where)
            if value is not None:
                example[column] = value
        return example | {"row": np.int64(index)}

    def _value(self, value, where: str):
        if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
            return self._image(value, where)
        if isinstance(value, bytes):
            return decode(io.BytesIO(value), "image", where)
        if isinstance(value, dict):
            return {k: self._value(v, f"{where}.{k}") for k, v in value.items()}
        if isinstance(value, list):
            array = _numbers(value)
            return [self._value(v, f"{where}[{i}]") for i, v in enumerate(value)] if array is None else array
        return str(value) if isinstance(value, datetime.date | datetime.time | datetime.timedelta | Decimal) else value

    def _image(self, value: dict, where: str):
        if value["bytes"] is not None:
            return decode(io.BytesIO(value["bytes"]), "image", where)
        if value["path"] is None:
            return None
        where = f"{where}={value['path']!r}"
        return decode(data_file(self._root, value["path"], self._outside, where), "image", where)

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the files change, and only then.
        return f"parquet.Source(examples={len(self)}, files={self._digest})"


def _scalar(scalar, where: str):
    try:
        try:
            return scalar.as_py()
        except ValueError:  # a time in nanoseconds, of which Python has none
            return scalar.cast("string").as_py()
    except Exception as e:  # texts that are no UTF-8, and what Arrow cannot cast
        raise ValueError(f"{where}: not readable ({e}); mend the value, or take the row out") from e


def _numbers(value: list):
    """A list of numbers as an array; None if it holds something else, or rows of several lengths."""
    if not value or not isinstance(value[0], int | float | list):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "iuf" and array.size else None


_READING = threading.Lock()


def _row_group(file: tuple, group: int, rows: int, columns: frozenset):
    # The lock keeps threads that want the same row group from each reading it.
    with _READING:
        return _read_row_group(file, group, rows, columns)


@functools.lru_cache(OPEN)
def _read_row_group(file: tuple, group: int, rows: int, columns: frozenset):
    name, opened = file[0], _open(*file)
    try:
        table = opened.read_row_group(group, [c for c in opened.schema_arrow.names if c in columns])
    except Exception as e:  # pyarrow raises OSError and its own kinds
        raise ValueError(f"{name}: row group {group} is not readable ({e}); restore the file") from e
    if columns and len(table) != rows:
        raise ValueError(f"{name}: row group {group} holds {len(table)} rows, and says {rows}; restore the file")
    return table


@functools.lru_cache(64)
def _open(name: str, size: int, changed: int):
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError("the source `parquet` needs pyarrow: pip install 'tokenloom[parquet]'") from e
    try:
        # Not mapped into memory: a file that is cut while it is open would end the process without a word.
        return pyarrow.parquet.ParquetFile(name, page_checksum_verification=True)  # of files that have them
    except (pyarrow.ArrowException, OSError) as e:
        raise ValueError(f"{name}: no whole Parquet file ({e}); restore it or take it out") from e
