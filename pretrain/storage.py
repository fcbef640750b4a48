"""Workdirs on a disk or in a bucket, and the config that each holds."""

import contextlib
import json
import operator
import os
import re
import tempfile
from pathlib import Path

import fsspec
from etils import epath

from data_pipeline.seal import seal, unseal


def locate(workdir) -> epath.Path:
    """A workdir on a disk or in a bucket, `gs://BUCKET/RUN`, as an absolute path that reads and writes both alike."""
    scheme = re.match(r"[\w.+-]+:/+", str(workdir))
    if not scheme:
        return epath.Path(Path(workdir).expanduser().absolute())
    if scheme[0] != "gs://":  # Orbax 0.12 would take s3:// for a file, and a `Path` has lost a slash
        raise ValueError(
            f"workdir={str(workdir)!r}: no checkpoint can be written there; give gs://BUCKET/RUN, or mount the storage "
            "as a file system on every host and give a folder of it"
        )
    try:
        import gcsfs  # noqa: F401
    except ImportError as e:
        raise ImportError(f"workdir={str(workdir)!r} needs `gcsfs`: pip install 'tokenloom[gcs]'") from e
    # A listing that gcsfs remembers does not hold what TensorStore or another host has written since.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(workdir)


def write(file, data: str | bytes):
    """Writes a whole file under its name at once, or, where that fails, nothing; one that holds just that stays."""
    file, data = locate(file), data.encode() if isinstance(data, str) else data
    try:
        if file.read_bytes() == data:
            return
    except OSError:
        pass
    if str(file).startswith("gs://"):  # an object is there when it is whole
        file.write_bytes(data)
        return
    partial = Path(f"{file}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_rows(file) -> tuple[list[dict], int]:
    """The rows of a JSONL of steps, {"step": …, …}, and how many lines are none: half written, or damaged."""
    file = locate(file)
    lines = [line for line in file.read_bytes().split(b"\n") if line] if file.exists() else []
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            row = json.loads(line)
            row["step"] = operator.index(row["step"])
            rows.append(row)
    return rows, len(lines) - len(rows)


def write_rows(file, rows: list[dict]):
    write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class Spool:
    """A folder here for what is appended to. Of a workdir in a bucket, where nothing can be, `upload` copies it there.

    `folder` is the workdir's own where that is on a disk.
    """

    def __init__(self, workdir, name: str = ""):
        self._there = f"{workdir}/{name}".rstrip("/") if str(workdir).startswith("gs://") else ""
        self._kept = tempfile.TemporaryDirectory() if self._there else None
        self.folder = Path(self._kept.name) if self._kept else Path(workdir).expanduser() / name

    def upload(self):
        if self._there:
            fsspec.filesystem("gs").put(f"{self.folder}/", f"{self._there}/", recursive=True)

    @property
    def remote(self) -> bool:
        return bool(self._there)


def write_config(workdir, config: dict):
    write(locate(workdir) / "config.json", json.dumps(seal(config), indent=2, sort_keys=True) + "\n")


def read_config(workdir) -> dict:
    """The `config.json` of a workdir; FileNotFoundError without one, ValueError if it is no JSON."""
    file = locate(workdir) / "config.json"
    if not file.exists():
        raise FileNotFoundError(f"{workdir} is no workdir (no config.json): train with `python -m pretrain`")
    try:
        return unseal(json.loads(file.read_text()))
    except (ValueError, TypeError, AttributeError) as e:
        raise ValueError(f"{file} is broken ({e}): bring it back from a copy, or train into a new workdir") from e
