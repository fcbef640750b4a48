"""The packaged emoji corpus as a Grain source: 1,570 emoji in six aligned 64 x 64 styles, with names and keywords."""

import functools
import gzip
import hashlib
import importlib.resources
import io
import json
import threading

import numpy as np
import PIL
from PIL import Image, features

from data_pipeline.picture_file import DECODERS

CELL = 64  # pixels
COLUMNS = 40  # cells in a row of an atlas
SPLITS = ("train", "val", "test")
ATLASES = {
    "render3d": ("render3d.avif", "RGB"),
    "flat": ("flat.avif", "RGB"),
    "noto": ("noto.avif", "RGB"),
    "line": ("line.webp", "L"),
    "mono": ("mono.webp", "L"),
    "mask": ("mask.png", "L"),
}

_CORPUS = importlib.resources.files("data_pipeline") / "emoji_corpus"
_DECODING = threading.Lock()


class Source:
    """Random access to the emoji of one or several splits, in the order of the corpus.

    An example is a dict of
      row: np.int64, the number of the emoji in the whole corpus, 0..1569
      id: its code points, e.g. "1f600"
      split: "train", "val" or "test"
      render3d, flat, noto: uint8[64, 64, 3] on white
      line, mono, mask: uint8[64, 64, 1], 255 = paper
      name: {language: str}, keywords: [str, ...] in English, group: str, subgroup: str

    The pixels are decoded once per process (about 80 MB) when the first example is read; a pickled source carries none.

    Args:
      split: "train", "val", "test", "all", or a tuple of the first three.

    Raises:
      ValueError: unknown split.
      RuntimeError: this Pillow cannot read AVIF.
    """

    fields = frozenset({*ATLASES, "id", "split", "name", "keywords", "group", "subgroup"})

    def __init__(self, split: str | tuple[str, ...] = "train"):
        splits = SPLITS if split == "all" else (split,) if isinstance(split, str) else tuple(split)
        if not splits or not set(splits) <= set(SPLITS):
            raise ValueError(f"split={split!r} is unknown: use one of {(*SPLITS, 'all')} or a tuple of {SPLITS}.")
        if not features.check("avif"):
            raise RuntimeError(
                f"Pillow {PIL.__version__} cannot read AVIF, in which the emoji corpus is stored: "
                "pip install 'pillow>=11.3' (a wheel, or a build with libavif)."
            )
        self._split = split
        self._rows = np.array([row for row, meta in enumerate(metadata()) if meta["split"] in splits], np.int64)

    @staticmethod
    def available() -> list[str]:
        return list(SPLITS)

    @property
    def metadata(self) -> list[dict]:
        """The lines of its emoji (`metadata`), without their pictures."""
        return [metadata()[row] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        row = self._rows[index]
        meta = metadata()[row]
        images = _images()
        return {
            "row": row,
            "id": meta["id"],
            "split": meta["split"],
            **{style: images[style][row].copy() for style in ATLASES},
            "name": dict(meta["name"]),
            "keywords": list(meta["keywords"]["en"]),
            "group": meta["group"],
            "subgroup": meta["subgroup"],
        }

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the data change, and only then.
        return f"Source(split={self._split!r}, examples={len(self)}, corpus={_digest()})"


@functools.cache
def metadata() -> tuple[dict, ...]:
    """The lines of `meta.jsonl.gz`, one dict per emoji of the whole corpus. Read only: the process shares them."""
    lines = gzip.decompress((_CORPUS / "meta.jsonl.gz").read_bytes()).decode("utf8").splitlines()
    return tuple(json.loads(line) for line in lines)


@functools.cache
def _digest() -> str:
    return hashlib.sha256((_CORPUS / "SHA256SUMS").read_bytes()).hexdigest()[:12]


def _images() -> dict[str, np.ndarray]:
    """{style: uint8[1570, 64, 64, C]}. The lock keeps Grain's reader threads from all decoding at the start."""
    with _DECODING:
        return _decode()


@functools.cache
def _decode() -> dict[str, np.ndarray]:
    images = {}
    for style, (name, mode) in ATLASES.items():
        atlas = np.asarray(Image.open(io.BytesIO((_CORPUS / name).read_bytes()), formats=DECODERS).convert(mode))
        cells = atlas.reshape(-1, CELL, COLUMNS, CELL, len(mode)).swapaxes(1, 2).reshape(-1, CELL, CELL, len(mode))
        images[style] = cells[: len(metadata())]
    return images
