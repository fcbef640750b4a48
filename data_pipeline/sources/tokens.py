"""Token stores: ArrayRecord shards of tokenized examples, with a manifest of how they were made.

`DIR/manifest.json` holds the format version, the modalities' vocabulary sizes, the tokenizers' digests, the licence,
and per split the file, its count and its checksum. A record is a msgpack map; arrays travel as (dtype, shape, bytes).
"""

import hashlib
import json
import os
from pathlib import Path

import msgpack
import numpy as np

FORMAT = 1


def encode_record(example: dict) -> bytes:
    """Nested dicts and lists of arrays, numbers and strings → bytes."""

    def default(value):
        if isinstance(value, np.ndarray):
            return {"__array__": [value.dtype.str, value.shape, value.tobytes()]}
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"a token store cannot hold {type(value).__name__} {value!r}")

    return msgpack.packb(example, default=default)


def decode_record(data: bytes) -> dict:
    """The inverse of `encode_record`."""

    def hook(value):
        if "__array__" in value:
            dtype, shape, raw = value["__array__"]
            return np.frombuffer(raw, dtype).reshape(shape)
        return value

    return msgpack.unpackb(data, object_hook=hook)


class Writer:
    """Writes one store; nothing is visible under its name until `close` has written the manifest."""

    def __init__(self, path, *, tokenizers: dict, licence: str):
        self.path = Path(path)
        if (self.path / "manifest.json").exists():
            raise FileExistsError(f"{self.path} already holds a token store: remove it or write elsewhere")
        self.path.mkdir(parents=True, exist_ok=True)
        self.manifest = {"format": FORMAT, "tokenizers": tokenizers, "licence": licence, "splits": {}}

    def write_split(self, split: str, examples):
        """examples: an iterable of dicts, written in its order."""
        from array_record.python.array_record_module import ArrayRecordWriter

        file = f"{split}-00000-of-00001.array_record"
        writer, count, fields = ArrayRecordWriter(str(self.path / file), "group_size:1"), 0, set()
        for example in examples:
            writer.write(encode_record(example))
            count += 1
            fields |= example.keys()
        writer.close()
        about = {"file": file, "count": count, "sha256": _sha256(self.path / file), "fields": sorted(fields)}
        self.manifest["splits"][split] = about

    def close(self):
        partial = self.path / "manifest.json.partial"
        partial.write_text(json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n")
        os.replace(partial, self.path / "manifest.json")


def read_manifest(path) -> dict:
    """The manifest; clear errors where there is none, or of another format."""
    file = Path(path) / "manifest.json"
    if not file.exists():
        raise FileNotFoundError(f"no token store at {path}: make one with `python -m tools.tokenize`")
    try:
        manifest = json.loads(file.read_text())
    except json.JSONDecodeError as e:
        raise ValueError(f"{file}: not valid JSON ({e}); remove the store and tokenize again") from e
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{file}: format={manifest.get('format')!r}, this version reads {FORMAT}; tokenize again")
    return manifest


class Source:
    """Random access to the tokenized examples of one or several splits of a store, in the order written."""

    def __init__(self, path, split="train"):
        splits = [split] if isinstance(split, str) else list(split)
        self.path, self.manifest = str(path), read_manifest(path)
        unknown = [s for s in splits if s not in self.manifest["splits"]]
        if unknown:
            raise ValueError(f"split={unknown[0]!r}: the store {path} has {', '.join(self.manifest['splits'])}")
        self.splits = tuple(splits)
        self._open()

    def _open(self):
        from grain.sources import ArrayRecordDataSource

        files = [os.path.join(self.path, self.manifest["splits"][s]["file"]) for s in self.splits]
        self._records = ArrayRecordDataSource(files)

    @property
    def fields(self) -> frozenset[str]:
        """All keys that some example has; of stores that do not say it, those of the first example."""
        about = [self.manifest["splits"][s] for s in self.splits]
        return frozenset(f for a in about for f in (a["fields"] if "fields" in a else self[0]))

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index) -> dict:
        return decode_record(self._records[index])

    def __repr__(self):
        marks = ", ".join(f"{s}:{self.manifest['splits'][s]['sha256'][:12]}" for s in self.splits)
        return f"tokens.Source({marks})"


def _sha256(path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
