"""Tars and encoded pictures for the tests of sources."""

import io
import json
import tarfile

import numpy as np
from PIL import Image


def write_tar(path, members: dict):
    """members: {name: value}; a value is encoded by the suffix of its name, bytes are taken as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            add(tar, name, encode(name, value))
    return path


def add(tar, name: str, data: bytes):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def encode(name: str, value) -> bytes:
    if isinstance(value, bytes):
        return value
    buffer, suffix = io.BytesIO(), name.rpartition(".")[2]
    if suffix == "npy":
        np.save(buffer, value)
    elif suffix == "png":
        Image.fromarray(value.squeeze()).save(buffer, "PNG")
    else:
        return (json.dumps(value) if suffix == "json" else str(value)).encode()
    return buffer.getvalue()


def picture(seed: int, size=(6, 4), channels: int = 3) -> np.ndarray:
    """uint8 `[*size, channels]` of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
