"""Random access to the members KEY.EXT of tars, as webdataset names them: one row a KEY, one column an EXT.

A KEY ends at the first dot of the file's name; what is a number between two dots is of the key, and all before it:
`clip-12.5.left.jpg` is `left.jpg` of `clip-12.5`.
Links to other members are what they lead to. Only the headers are read, once: the index is kept beside the tars as
`.*.index.npz` if the folder can be written to, and made anew when a tar's size or time has changed.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import json
import os
import posixpath
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tqdm

from data_pipeline.decoding import decode, kind_of
from data_pipeline.folders import HIDDEN, Ignored, is_system, printable
from data_pipeline.image import UNREAD_SUFFIXES
from data_pipeline.plain_text import parse_json

FORMAT = 2  # 1 took what follows the first dot for the suffix, a digit too
LARGEST = 2**31 - 2**12  # bytes of a member: what one call reads
LARGEST_JSON = 2**26  # bytes
ALONE = 64  # names with two suffixes that only one key has, from which on they are taken for keys with dots


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the members of some tars lie.

    shards: the paths of the tars; shard: int32[n], which one holds a row; keys: bytes[n]; columns: each EXT, in lower
    case; place: int64[n, columns, 2], the first byte of a member and its size, (-1, 0) if a key lacks it; json_keys:
    the keys of the objects in KEY.json; ignored: `folders.Ignored` in words, members that are no examples.
    """

    shards: tuple[str, ...]
    shard: np.ndarray
    keys: np.ndarray
    columns: tuple[str, ...]
    place: np.ndarray
    json_keys: frozenset[str]
    ignored: str

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, row: int, column: int) -> bool:
        return self.place[row, column, 0] >= 0

    def where(self, row: int, column: int | None = None) -> str:
        """`TAR: KEY`, or `TAR: KEY.EXT`."""
        suffix = "" if column is None else f".{self.columns[column]}"
        return f"{self.shards[self.shard[row]]}: {self.keys[row].decode('utf8', 'replace')}{suffix}"

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
            lines.append(f"members {self.ignored}")
        unread = [c for c, ext in enumerate(self.columns) if f".{ext}".endswith(UNREAD_SUFFIXES)]
        lines += [f"{(self.place[:, c, 0] >= 0).sum():,} members .{self.columns[c]} are pictures in a format that is "
                  "not read: they give bytes" for c in unread]  # fmt: skip
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
    return Index(
        tuple(map(str, shards)), arrays["shard"], arrays["keys"], tuple(arrays["columns"].tolist()), arrays["place"],
        frozenset(arrays["json_keys"].tolist()), str(arrays["ignored"]),
    )  # fmt: skip


def _load(file: Path, stamp: str) -> dict | None:
    if not file.is_file():
        return None
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
    ignored = Ignored()
    for _, _, left in found:
        ignored.update(left)
    _check_suffixes([(shard, rows) for shard, (rows, _, _) in zip(shards, found)])
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
        "keys": np.array([key.encode("utf8", "surrogateescape") for rows, _, _ in found for key in rows], "S"),
        "columns": np.array(columns, "U"),
        "place": place,
        "json_keys": np.array(sorted({key for _, keys, _ in found for key in keys}), "U"),
        "ignored": np.array(str(ignored), "U"),
    }


def _scan(path: Path):
    """({key: {ext: (offset, size)}}, keys of JSON objects, what else is there) of one tar."""
    rows, json_keys, ignored = {}, set(), Ignored()
    with open(path, "rb") as file:
        for name, offset, size in _members(path, file):
            folder, _, base = name.rpartition("/")
            key, ext = _split_name(base)
            if is_system(name) or not ext:
                ignored.add(HIDDEN if is_system(name) else "no KEY.EXT", f"{path}: {printable(name)}")
                continue
            members = rows.setdefault(f"{folder}/{key}" if folder else key, {})
            if members.setdefault(ext.lower(), (offset, size)) != (offset, size):
                raise ValueError(f"{path}: {name}: this member is there twice; keys must be unique in a tar")
            if ext.lower() == "json":
                json_keys |= _object_keys(path, name, file, offset, size)
    for key in rows:
        before, dot, number = key.rpartition(".")
        if dot and "/" not in number and before in rows:
            raise ValueError(
                f"{path}: {printable(key)}.{next(iter(rows[key]))}: there is {printable(before)} too, so one cannot "
                f"tell whether {number} is of its key or a field; put _ or a letter before the number"
            )
    return rows, json_keys, ignored


def _split_name(base: str) -> tuple[str, str]:
    """KEY and EXT of a file's name; EXT is "" of one that has none."""
    parts = base.split(".")
    start = max((i + 1 for i, part in enumerate(parts[1:-1], 1) if not part or part[0].isdigit()), default=1)
    return ".".join(parts[:start]), ".".join(parts[start:])


def _check_suffixes(found):
    """ValueError for names of which one cannot tell where their keys end: each of many has a suffix of its own."""
    every = ((ext, path, key) for path, rows in found for key, members in rows.items() for ext in members)
    double = [where for where in every if "." in where[0]]
    count = collections.Counter(ext for ext, _, _ in double)
    alone = [where for where in double if count[where[0]] == 1]
    if len(alone) > ALONE and 2 * len(alone) > len(count):
        ext, path, key = alone[0]
        raise ValueError(
            f"{path}: {printable(key)}.{ext}: {len(alone):,} names have two suffixes that no other has: a key ends at "
            "its first dot; rename the members so that keys have none"
        )


def _members(path, file):
    """(name, offset, size) of the files of a tar and, after them, of the links to them."""
    last, places, links = "its first member", {}, []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                last, name = member.name, posixpath.normpath(member.name)
                if member.issparse() or member.size > LARGEST:
                    raise ValueError(
                        f"{path}: {member.name}: {member.size:,} bytes{', stored sparse' * member.issparse()}: members "
                        f"are whole files of at most {LARGEST:,}; make the tar without --sparse"
                    )
                if member.isreg():
                    places[name] = member.offset_data, member.size
                    yield name, member.offset_data, member.size
                elif member.issym() or member.islnk():
                    folder = posixpath.dirname(name) if member.issym() else ""
                    links.append((name, posixpath.normpath(posixpath.join(folder, member.linkname))))
                elif not member.isdir():
                    raise ValueError(f"{path}: {member.name}: neither file nor folder; put the file itself there")
            end = tar.offset
    except tarfile.ReadError as e:
        raise ValueError(f"{path}: not a whole plain tar ({e}, at {last}); copy it again or take it out") from e
    to = dict(links)
    for name, target in links:
        seen = {name}
        while target in to and target not in seen:  # of a link to a link
            seen.add(target)
            target = to[target]
        if target not in places:
            if is_system(name):
                continue
            raise ValueError(f"{path}: {name}: links to {target}, no file in this tar; put the file itself there")
        yield name, *places[target]
    # tarfile takes a broken header for the end; a true one is all zeros.
    rest = os.pread(file.fileno(), 2**16, end)
    if len(rest) < tarfile.BLOCKSIZE or any(rest):
        raise ValueError(
            f"{path}: not a whole plain tar (cut off or broken after {last}); copy it again or take it out"
        )


def _object_keys(path, name: str, file, offset: int, size: int) -> set[str]:
    if size > LARGEST_JSON:
        raise ValueError(f"{path}: {name}: {size:,} bytes of JSON, at most {LARGEST_JSON:,} are read; cut it up")
    try:
        value = parse_json(os.pread(file.fileno(), size, offset))
    except ValueError:  # said when it is read
        return set()
    return set(value) if isinstance(value, dict) else set()


@functools.lru_cache(256)
def _open(path: str):
    return open(path, "rb", buffering=0)
