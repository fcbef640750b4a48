"""Random access to the members KEY.EXT of tars, as webdataset names them: one row a KEY, one column an EXT.

A KEY ends at the first dot of the file's name. Only the headers are read, once: the index is kept beside the tars as
`.*.index.npz` if the folder can be written to, and made anew when a tar's size or time has changed.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tqdm

from data_pipeline.decoding import decode, kind_of

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the members of some tars lie.

    shards: the paths of the tars; shard: int32[n], which one holds a row; keys: bytes[n]; columns: each EXT, in lower
    case; place: int64[n, columns, 2], the first byte of a member and its size, (-1, 0) if a key lacks it; json_keys:
    the keys of the objects in KEY.json; ignored: members that are no KEY.EXT.
    """

    shards: tuple[str, ...]
    shard: np.ndarray
    keys: np.ndarray
    columns: tuple[str, ...]
    place: np.ndarray
    json_keys: tuple[str, ...]
    ignored: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, row: int, column: int) -> bool:
        return self.place[row, column, 0] >= 0

    def where(self, row: int, column: int | None = None) -> str:
        """`TAR: KEY`, or `TAR: KEY.EXT`."""
        suffix = "" if column is None else f".{self.columns[column]}"
        return f"{self.shards[self.shard[row]]}: {self.keys[row].decode()}{suffix}"

    def read(self, row: int, column: int):
        """A member as `decoding.decode` gives it. ValueError for a broken one."""
        offset, size = self.place[row, column].tolist()
        where = self.where(row, column)
        file = _open(self.shards[self.shard[row]])  # held: another thread may drop it from the cache meanwhile
        data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise ValueError(f"{where}: ends after {len(data)} of {size} bytes; copy the tar again")
        return decode(io.BytesIO(data), kind_of(f".{self.columns[column]}"), where)

    @functools.cached_property
    def digest(self) -> str:
        """Changes with the names of the tars and the names, places and sizes of their members."""
        names = "\n".join([*(Path(s).name for s in self.shards), *self.columns])
        return hashlib.sha256(names.encode() + self.keys.tobytes() + self.place.tobytes()).hexdigest()[:12]

    @property
    def report(self) -> list[str]:
        """What is unusual."""
        held = set(np.unique(self.shard).tolist())
        empty = [s for i, s in enumerate(self.shards) if i not in held]
        lines = [f"{len(empty)} of {len(self.shards)} tars are empty, such as {empty[0]}"] if empty else []
        if self.ignored:
            lines.append(f"{len(self.ignored)} members are no KEY.EXT and ignored, such as {self.ignored[0]}")
        return lines


def read_index(shards) -> Index:
    """The index of these tars.

    ValueError, which names the tar and the member, for one that is cut off or broken, and for a member that is twice
    in a tar.
    """
    shards = [Path(s) for s in shards]
    stamp = json.dumps([FORMAT, *([s.name, s.stat().st_size, s.stat().st_mtime_ns] for s in shards)])
    names = "\n".join(s.as_posix() for s in shards)
    kept = shards[0].parent / f".{hashlib.sha256(names.encode()).hexdigest()[:12]}.index.npz"
    arrays = _load(kept, stamp)
    if arrays is None:
        arrays = _scan_all(shards)
        _save(kept, arrays | {"stamp": stamp})
        _open.cache_clear()  # a tar of this name may have been another
    lists = {k: tuple(arrays[k].tolist()) for k in ("columns", "json_keys", "ignored")}
    return Index(tuple(map(str, shards)), arrays["shard"], arrays["keys"], place=arrays["place"], **lists)


def _load(file: Path, stamp: str) -> dict | None:
    try:
        with np.load(file) as kept:
            return dict(kept) if kept["stamp"] == stamp else None
    except Exception:  # whatever zipfile and NumPy make of a damaged one: it is made again
        return None


def _save(file: Path, arrays: dict):
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as out:
            np.savez(out, **arrays)
        os.replace(partial, file)
    except OSError:  # a folder that is not ours to write, or full: the index serves from memory
        partial.unlink(missing_ok=True)


def _scan_all(shards: list[Path]) -> dict:
    # Headers are spread over a tar: on network storage threads hide the waiting.
    with ThreadPoolExecutor(8) as pool:
        found = list(tqdm.tqdm(pool.map(_scan, shards), "index tars", len(shards), disable=None))
    columns = sorted({ext for rows, _, _ in found for members in rows.values() for ext in members})
    number = {ext: i for i, ext in enumerate(columns)}
    count = sum(len(rows) for rows, _, _ in found)
    place = np.zeros((count, len(columns), 2), np.int64)
    place[..., 0] = -1
    flat = (members for rows, _, _ in found for members in rows.values())
    for row, members in enumerate(flat):
        for ext, where in members.items():
            place[row, number[ext]] = where
    return {
        "shard": np.repeat(np.arange(len(shards), dtype=np.int32), [len(rows) for rows, _, _ in found]),
        "keys": np.array([key.encode() for rows, _, _ in found for key in rows], "S"),
        "columns": np.array(columns, "U"),
        "place": place,
        "json_keys": np.array(sorted({key for _, keys, _ in found for key in keys}), "U"),
        "ignored": np.array([f"{s}: {name}" for s, (_, _, names) in zip(shards, found) for name in names], "U"),
    }


def _scan(path: Path):
    """({key: {ext: (offset, size)}}, keys of JSON objects, names of other members) of one tar."""
    rows, json_keys, ignored = {}, set(), []
    with open(path, "rb") as file:
        for name, offset, size in _members(path, file):
            folder, _, base = name.rpartition("/")
            key, dot, ext = base.partition(".")
            if not (key and dot and ext):
                ignored.append(name)
                continue
            members = rows.setdefault(f"{folder}/{key}" if folder else key, {})
            if members.setdefault(ext.lower(), (offset, size)) != (offset, size):
                raise ValueError(f"{path}: {name}: this member is there twice; keys must be unique in a tar")
            if ext.lower() == "json":
                json_keys |= _object_keys(os.pread(file.fileno(), size, offset))
    return rows, json_keys, ignored


def _members(path, file):
    """(name, offset, size) of the files of a tar."""
    last = "its first member"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                last = member.name
                if member.isreg():
                    yield member.name, member.offset_data, member.size
                elif not member.isdir():
                    raise ValueError(f"{path}: {member.name}: neither file nor folder; put the file itself there")
            end = tar.offset
    except tarfile.ReadError as e:
        raise ValueError(f"{path}: not a whole plain tar ({e}, at {last}); copy it again or take it out") from e
    # tarfile takes a broken header for the end; a true one is all zeros.
    rest = os.pread(file.fileno(), 2**16, end)
    if len(rest) < tarfile.BLOCKSIZE or any(rest):
        raise ValueError(
            f"{path}: not a whole plain tar (cut off or broken after {last}); copy it again or take it out"
        )


def _object_keys(data: bytes) -> set[str]:
    try:
        value = json.loads(data)
    except ValueError:  # said when it is read
        return set()
    return set(value) if isinstance(value, dict) else set()


@functools.lru_cache(256)
def _open(path: str):
    return open(path, "rb", buffering=0)
