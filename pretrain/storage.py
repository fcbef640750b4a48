"""Workdirs on a disk or in a bucket, and the config that each holds."""

import json
import re
import tempfile
from pathlib import Path

import fsspec
from etils import epath


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


def read_config(workdir) -> dict:
    """The `config.json` of a workdir; FileNotFoundError without one, ValueError if it is no JSON."""
    file = locate(workdir) / "config.json"
    if not file.exists():
        raise FileNotFoundError(f"{workdir} is no workdir (no config.json): train with `python -m pretrain`")
    try:
        return json.loads(file.read_text())
    except ValueError as e:
        raise ValueError(f"{file} is broken ({e}): bring it back from a copy, or train into a new workdir") from e
