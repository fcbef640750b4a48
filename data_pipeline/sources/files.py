"""Images and texts of one's own in a folder: `SPLIT.jsonl` with one example a line, or `SPLIT/CLASS/*.jpg`."""

import array
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from data_pipeline.decoding import decode, kind_of
from data_pipeline.image import PICTURE_SUFFIXES


class Source:
    """Random access to the examples of one or several splits, in the order of their lines or of their file names.

    `PATH/SPLIT.jsonl` holds one JSON object a line, such as
        {"image": "imgs/1.jpg", "depth": "imgs/1.png", "caption": ["a red bus", "a bus in the rain"]}
    A key is an image, or an array that NumPy saved (.npy), if the first line that has it names a file by its suffix,
    relative to PATH; everything else is passed on as it is. A key that a line lacks, or whose value is null, is absent.

    Without such a file, the images of `PATH/SPLIT/CLASS/` are the examples {"image", "label": "CLASS"}, and those right
    in `PATH/SPLIT/` have no label.

    An example is a dict of these fields, files read when it is: images uint8[H, W, 3], or [H, W, 1] of grey ones; and
    of row: np.int64, its number in the given splits.

    Raises:
      FileNotFoundError: PATH has neither form; on reading, a missing file.
      ValueError: unknown or empty split, a line that is no JSON object; on reading, a broken file.
    """

    def __init__(self, path, split="train"):
        self._path = Path(path)
        self._splits = (split,) if isinstance(split, str) else tuple(split)
        found = _splits(self._path)
        if not found:
            raise FileNotFoundError(
                f"path={str(path)!r}: no examples: it must hold SPLIT.jsonl or folders SPLIT/CLASS of images "
                f"({', '.join(PICTURE_SUFFIXES)})"
            )
        self._parts = []
        for name in self._splits:
            if name not in found:
                raise ValueError(f"split={name!r}: {path} has {', '.join(found)}")
            file = self._path / f"{name}.jsonl"
            part = _Lines(file) if file.exists() else _Folder(self._path / name)
            if not len(part):
                raise ValueError(f"split={name!r}: {part.where(0)} holds no example: fill it or name another split")
            self._parts.append(part)
        self._ends = np.cumsum([len(part) for part in self._parts])

    @property
    def fields(self) -> frozenset[str]:
        """All keys that some example has."""
        return frozenset(key for part in self._parts for key in part.fields)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        part, at = self._find(index)
        example = {
            key: decode(self._path / value, part.fields[key], f"{part.where(at)}: {key}={value!r}")
            if part.fields[key]
            else value
            for key, value in part[at].items()
        }
        return example | {"row": np.int64(index)}

    def peek(self, index: int) -> dict:
        """The example with the names of its files in their places: none is opened."""
        part, at = self._find(index)
        return part[at] | {"row": np.int64(index)}

    def _find(self, index: int):
        """The part that holds an example, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        number = int(np.searchsorted(self._ends, index, "right"))
        part = self._parts[number]
        return part, int(index - self._ends[number] + len(part))

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the listing changes, and only then.
        marks = ", ".join(f"{name}:{part.digest}" for name, part in zip(self._splits, self._parts))
        return f"files.Source({marks})"


class _Lines:
    """A JSONL file. Only the places of its lines are held: there may be millions, and workers get a copy each.

    fields: {key: `image`, `array`, or "" for what is no file}.
    """

    def __init__(self, file: Path):
        self._file, self._starts, self.fields = file, array.array("q"), {}
        digest, start = hashlib.sha256(), 0
        with open(file, "rb") as lines:
            for index, line in enumerate(lines):
                for key, value in self._parse(line, index).items():
                    self.fields.setdefault(key, _kind(value))
                self._starts.append(start)
                digest.update(line)
                start += len(line)
        self.digest = digest.hexdigest()[:12]

    def where(self, index) -> str:
        return f"{self._file}, line {index + 1}"

    def _parse(self, line: bytes, index: int) -> dict:
        try:
            example = json.loads(line)
        except ValueError as e:
            raise ValueError(f"{self.where(index)}: not valid JSON ({e}); write one object a line") from e
        if not isinstance(example, dict):
            raise ValueError(f"{self.where(index)}: {example!r:.40} is no object; write {{key: value, …}}")
        return {key: value for key, value in example.items() if value is not None}

    def __len__(self):
        return len(self._starts)

    def __getitem__(self, index) -> dict:
        with open(self._file, "rb") as lines:
            lines.seek(self._starts[index])
            return self._parse(lines.readline(), index)


class _Folder:
    """Images in folders of their classes, as torchvision's ImageFolder has them, but labelled by name."""

    fields = {"image": "image", "label": ""}

    def __init__(self, folder: Path):
        self._folder, self._files = folder, sorted(_walk(folder))
        self.digest = hashlib.sha256("\n".join(self._files).encode()).hexdigest()[:12]

    def where(self, index) -> str:
        return str(self._folder)

    def __len__(self):
        return len(self._files)

    def __getitem__(self, index) -> dict:
        file = self._files[index]
        label, _, _ = file.rpartition("/")
        return {"image": f"{self._folder.name}/{file}"} | ({"label": label.split("/")[0]} if label else {})


def _walk(folder: Path):
    """Image files below a folder, relative to it."""
    for root, _, names in os.walk(folder, followlinks=True):
        yield from (Path(root, name).relative_to(folder).as_posix() for name in names if _kind(name) == "image")


def _kind(value) -> str:
    """`image` or `array` of the name of such a file, else "": other files are not opened."""
    kind = kind_of(value) if isinstance(value, str) else ""
    return kind if kind in ("image", "array") else ""


def _splits(path: Path) -> list[str]:
    """Names of the splits in a folder: of its JSONL files or, if there are none, of its folders with images."""
    lines = sorted(file.stem for file in path.glob("*.jsonl"))
    return lines or sorted(d.name for d in path.glob("*") if d.is_dir() and next(_walk(d), None))
