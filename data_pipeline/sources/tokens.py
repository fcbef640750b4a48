"""Token stores: ArrayRecord shards of tokenized examples, with a manifest of how they were made.

`DIR/manifest.json` holds the format version, the tokenizers with their digests and the files of their codes, the
licence, of every split its fields, its count and its shards, each with its count, size and sha256, and its own sha256.
Opening a store checks its own, and that every shard is there and has its size; `tools.store check DIR` checks all. A
record is a msgpack map with all arrays of the example in one block, as (key, dtype, shape, start).
"""

import bisect
import hashlib
import itertools
import json
import os
from pathlib import Path

import msgpack
import numpy as np

from data_pipeline.folders import check_file, data_file
from data_pipeline.plain_text import parse_json
from data_pipeline.seal import seal, unseal
from data_pipeline.shards import in_order

FORMAT = 2  # 1 had one file a split, did not say its size, and wrapped each array by itself
SHARD_SIZE = 4096  # examples
ALIGNMENT = 8  # bytes, of an array in a record


def encode_record(example: dict) -> bytes:
    """Nested dicts and lists of arrays, numbers and strings → bytes. The example's own arrays lie in one block.

    TypeError, ValueError: it holds something else.
    """
    layout, block = [], bytearray()
    for key, value in example.items():
        if isinstance(value, np.ndarray):
            layout.append((key, value.dtype.str, value.shape, len(block)))
            block += value.tobytes() + bytes(-value.nbytes % ALIGNMENT)

    def default(value):
        if isinstance(value, np.ndarray):
            return {"__array__": [value.dtype.str, value.shape, value.tobytes()]}
        if isinstance(value, np.generic):
            return value.item()
        row, what = example.get("row"), f"{type(value).__name__} {value!r:.60}"
        raise TypeError(f"row {row}: a token store cannot hold {what}; mend it, or leave its field out")

    rest = {k: v for k, v in example.items() if not isinstance(v, np.ndarray)}
    try:
        return msgpack.packb(rest | {"__layout__": layout, "__block__": bytes(block)}, default=default)
    except ValueError as e:  # nested too deep, or lone surrogates
        raise ValueError(
            f"row {example.get('row')}: a token store cannot hold {rest!r:.200} ({e}); mend it, or leave its field out"
        ) from e


def decode_record(data: bytes) -> dict:
    """The inverse of `encode_record`; arrays cannot be written to."""

    def hook(value):
        if "__array__" in value:
            dtype, shape, raw = value["__array__"]
            return np.frombuffer(raw, dtype).reshape(shape)
        return value

    example = msgpack.unpackb(data, object_hook=hook)
    block = example.pop("__block__", b"")  # records of format 1 have none
    for key, dtype, shape, start in example.pop("__layout__", ()):
        example[key] = np.ndarray(shape, dtype, block, start)
    return example


def shard_file(split: str, number: int) -> str:
    return f"{split}-{number:05d}.array_record"


def write_shard(file: Path, examples) -> dict:
    """Writes dicts as one shard; whoever finds the file under its name finds all of it.

    Returns what a manifest says of it: file, count, bytes, sha256; and fields, the keys that some example has.

    Raises:
      OSError: it cannot be written, as on a full disk; nothing of it is left.
    """
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    partial, count, fields = file.with_name(f"{file.name}.partial"), 0, set()
    try:
        writer = _tried(file, ArrayRecordWriter, str(partial), "group_size:1")
        for example in examples:
            _tried(file, writer.write, encode_record(example))
            count += 1
            fields |= example.keys()
        _tried(file, writer.close)
        if (kept := ArrayRecordReader(str(partial)).num_records()) != count:
            raise OSError(f"{file}: {count} records were written, and {kept} are there")
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        about = {"file": file.name, "count": count, "bytes": partial.stat().st_size, "sha256": sha256(partial)}
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return about | {"fields": sorted(fields)}


def _tried(file, function, *args):
    try:
        return function(*args)
    except RuntimeError as e:  # what ArrayRecord raises for errors of the system
        raise OSError(f"{file}: cannot be written ({e}): is the disk full?") from e


def split_about(shards: list[dict]) -> dict:
    """What a manifest says of a split, from what `write_shard` says of its shards."""
    return {
        "count": sum(s["count"] for s in shards),
        "fields": sorted({field for s in shards for field in s["fields"]}),
        "shards": [{k: v for k, v in s.items() if k != "fields"} for s in shards],
    }


def write_manifest(path, *, tokenizers: dict, licence: str, splits: dict, **more):
    """With it a store is finished. splits: {name: of `split_about`}; more: further keys, of how it was made."""
    manifest = {"format": FORMAT, "tokenizers": tokenizers, "licence": licence, "splits": splits, **more}
    partial = Path(path) / f"manifest.json.{os.getpid()}.partial"  # of several processes two may end at once
    partial.write_text(json.dumps(seal(json.loads(json.dumps(manifest))), indent=2, ensure_ascii=False) + "\n")
    os.replace(partial, Path(path) / "manifest.json")


def write_codes(path, tokenizer: str, codes) -> dict:
    """Writes what a tokenizer's decoder reads for each id, float32 `[vocab_size, d]`; returns what a manifest says."""
    file = Path(path).expanduser() / f"{tokenizer}.codes.npy"
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with open(partial, "wb") as f:
        np.save(f, codes)
    os.replace(partial, file)
    return {"file": file.name, "sha256": sha256(file)}


def read_codes(path, tokenizer: str):
    """The codes that a store holds of a tokenizer; None if it has none.

    FileNotFoundError if their file is missing, ValueError if it is another than the manifest says.
    """
    about = read_manifest(path)["tokenizers"].get(tokenizer, {}).get("codes")
    if about is None:
        return None
    file = check_size(path, about)
    if sha256(file) != about["sha256"]:
        raise ValueError(f"{file}: another sha256 than its manifest says; copy it again")
    return np.load(file, allow_pickle=False)


class Writer:
    """Writes one store; nothing is visible under its name until `close` has written the manifest.

    shard_size: examples in a shard at most.
    """

    def __init__(self, path, *, tokenizers: dict, licence: str, shard_size: int = SHARD_SIZE):
        self.path, self._about = Path(path), dict(tokenizers=tokenizers, licence=licence)
        if (self.path / "manifest.json").exists():
            raise FileExistsError(f"{self.path} already holds a token store: remove it or write elsewhere")
        self.path.mkdir(parents=True, exist_ok=True)
        self._shard_size, self._splits = shard_size, {}

    def write_split(self, split: str, examples):
        """examples: an iterable of dicts, written in its order."""
        examples, shards = iter(examples), []
        for first in examples:
            part = itertools.chain([first], itertools.islice(examples, self._shard_size - 1))
            shards.append(write_shard(self.path / shard_file(split, len(shards)), part))
        self._splits[split] = split_about(shards)

    def close(self):
        write_manifest(self.path, splits=self._splits, **self._about)


def read_manifest(path) -> dict:
    """The manifest, of an older format in the form of this one; clear errors where there is none, or a newer one."""
    path = Path(path).expanduser()
    try:
        file = data_file(path, "manifest.json", outside=True)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"no token store at {path}: make one with `python -m tools.tokenize`") from e
    try:
        manifest = parse_json(file.read_bytes())
    except ValueError as e:
        raise ValueError(f"{file}: not valid JSON ({e}); copy it again, or remove the store and tokenize again") from e
    made = manifest.get("format") if isinstance(manifest, dict) else None
    if made not in (1, FORMAT):
        raise ValueError(f"{file}: format={made!r}, this version reads 1 to {FORMAT}; tokenize again")
    try:
        manifest = unseal(manifest)
    except ValueError as e:
        raise ValueError(f"{file}: {e}; copy it again, or take its key sha256 out if it was you") from e
    try:
        if made == 1:
            for about in manifest["splits"].values():
                about["shards"] = [{k: about.pop(k) if k != "count" else about[k] for k in ("file", "count", "sha256")}]
        _check_manifest(manifest)
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"{file}: no manifest of a token store ({type(e).__name__}: {e}); copy it again") from e
    return manifest


def _check_manifest(manifest: dict):
    """KeyError, TypeError or AttributeError unless all is there that is read of it."""
    shards = [shard for about in manifest["splits"].values() for shard in about["shards"]]
    for about in manifest["tokenizers"].values():
        shards += [about["codes"] | {"count": 0}] if "codes" in about else []
    for shard in shards:
        for key, kind in (("file", str), ("sha256", str), ("count", int)):
            if not isinstance(shard[key], kind):
                raise TypeError(f"{key}={shard[key]!r}")


class Source:
    """Random access to the tokenized examples of one or several splits of a store, in the order written.

    Args:
      path: the folder.
      split: a name or a tuple of them.
      outside: whether shards may be links that lead out of it, see `data_pipeline.folders`.

    Raises:
      FileNotFoundError: no store, or a shard is missing.
      ValueError: unknown split, a shard of another size, or outside; on reading, a broken record.
    """

    def __init__(self, path, split="train", outside: bool = False):
        splits = [split] if isinstance(split, str) else list(split)
        self.path, self.manifest = str(Path(path).expanduser()), read_manifest(path)
        unknown = [s for s in splits if s not in self.manifest["splits"]]
        if unknown:
            raise ValueError(f"split={unknown[0]!r}: the store {path} has {', '.join(self.manifest['splits'])}")
        self.splits = tuple(splits)
        self._shards = [shard for s in splits for shard in self.manifest["splits"][s]["shards"]]
        for shard in self._shards:
            check_size(self.path, shard, outside)
        self._ends = list(itertools.accumulate(shard["count"] for shard in self._shards))
        self._readers = {}

    @staticmethod
    def available(path) -> list[str]:
        """The splits that a store has."""
        return in_order(read_manifest(path)["splits"])

    def __getstate__(self):
        return self.__dict__ | {"_readers": {}}

    @property
    def fields(self) -> frozenset[str]:
        """All keys that some example has; of stores that do not say it, those of the first example."""
        about = [self.manifest["splits"][s] for s in self.splits]
        return frozenset(f for a in about for f in (a["fields"] if "fields" in a else self[0]))

    def __len__(self):
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        try:
            return decode_record(self.read(index))
        except Exception as e:  # of ArrayRecord and msgpack
            shard, record = self._place(index)
            raise ValueError(
                f"{self.path}/{self._shards[shard]['file']}: record {record} is not readable "
                f"({e}); `python -m tools.store check {self.path}` finds the broken shards"
            ) from e

    def read(self, index: int) -> bytes:
        """The record of an example, not yet decoded."""
        shard, record = self._place(index)
        reader = self._readers.get(shard)
        if reader is None:
            from array_record.python.array_record_module import ArrayRecordReader

            file = os.path.join(self.path, self._shards[shard]["file"])
            # Opened when it is first read. It may serve several threads at once.
            reader = ArrayRecordReader(file, options="readahead_buffer_size:0")
            if (held := reader.num_records()) != self._shards[shard]["count"]:
                raise ValueError(f"it holds {held} records, its manifest says {self._shards[shard]['count']}")
            self._readers[shard] = reader
        # As a range: given a list of numbers ArrayRecord fills a table of all records of the file, a third of the time.
        return reader.read(record, record + 1)[0]

    def _place(self, index) -> tuple[int, int]:
        """(number of the shard, number in it) of an example."""
        shard = bisect.bisect_right(self._ends, index)
        return shard, int(index) - self._ends[shard] + self._shards[shard]["count"]

    def __repr__(self):
        marks = ", ".join(f"{s}:{self._digest(s)[:12]}" for s in self.splits)
        return f"tokens.Source({marks})"

    def _digest(self, split) -> str:
        sums = [shard["sha256"] for shard in self.manifest["splits"][split]["shards"]]
        return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def check_size(path, shard: dict, outside: bool = False) -> Path:
    """The path of a shard. FileNotFoundError if it is missing, ValueError if it is outside the store, or not of the
    size that the manifest says."""
    file = Path(path).expanduser() / shard["file"]
    try:
        check_file(Path(path).expanduser(), file, outside)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{file}: missing; bring it back, or tokenize again") from e
    size = file.stat().st_size
    if size != shard.get("bytes", size):  # stores of format 1 do not say it
        raise ValueError(f"{file}: {size} bytes, but its manifest says {shard['bytes']}; copy it again")
    return file


def sha256(path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
