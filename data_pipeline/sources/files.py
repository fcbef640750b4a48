"""Images and texts of one's own in a folder: `SPLIT.jsonl` with one example a line, or `SPLIT/CLASS/*.jpg`."""

import array
import bisect
import collections
import hashlib
from pathlib import Path

import numpy as np

from data_pipeline.decoding import decode, kind_of
from data_pipeline.folders import OTHER, Ignored, check_file, check_inside, data_file, entries, printable, walk
from data_pipeline.image import PICTURE_SUFFIXES, UNREAD_SUFFIXES
from data_pipeline.plain_text import parse_json, well_formed
from data_pipeline.shards import in_order

LONGEST = 2**26  # bytes of a line
UNREAD = "pictures in formats that are not read"


class Source:
    """Random access to the examples of one or several splits, in the order of their lines or of their file names.

    `PATH/SPLIT.jsonl` holds one JSON object a line, such as
        {"image": "imgs/1.jpg", "depth": "imgs/1.png", "caption": ["a red bus", "a bus in the rain"]}
    A key names files, images or arrays that NumPy saved (.npy), relative to PATH, if more than half of its texts end as
    such names do; everything else is passed on as it is. A key that a line lacks, or whose value is null or NaN, is
    absent, as is a file without a name. Blank lines are no examples.

    Without such a file, the images of `PATH/SPLIT/CLASS/` are the examples {"image", "label": "CLASS"}, and those right
    in `PATH/SPLIT/` have no label.

    An example is a dict of these fields, files read when it is: images uint8[H, W, 3], or [H, W, 1] of grey ones; and
    of row: np.int64, its number in the given splits.

    Args:
      path: the folder.
      split: a name or a tuple of them.
      texts: keys that are texts although they look like names of files.
      outside: whether names and links may lead out of the folder, see `data_pipeline.folders`.

    Raises:
      FileNotFoundError: PATH has neither form; on reading, a missing file.
      ValueError: unknown or empty split, a line that is no JSON object; on reading, a broken file, or one outside.
    """

    def __init__(self, path, split="train", texts=(), outside: bool = False):
        self._path, self._outside = Path(path).expanduser(), outside
        self._splits = (split,) if isinstance(split, str) else tuple(split)
        texts = (texts,) if isinstance(texts, str) else tuple(texts)
        found, ignored = self.available(path), Ignored()
        self._parts = []
        for name in self._splits:
            if name not in found:
                raise ValueError(f"split={name!r}: {path} has {', '.join(found)}")
            file, folder = self._path / f"{name}.jsonl", self._path / name
            if file.exists():
                part = _Lines(check_file(self._path, file, outside), texts)
            else:
                check_inside(self._path, folder, outside, str(folder))
                part = _Folder(self._path, folder, ignored, outside)
            if not len(part):
                why = f" ({ignored})" if str(ignored) else ""
                raise ValueError(
                    f"split={name!r}: {part.where(0)} holds no example{why}: fill it or name another split"
                )
            self._parts.append(part)
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.report = "; ".join(filter(None, [str(ignored), *(part.report for part in self._parts)]))

    @staticmethod
    def available(path) -> list[str]:
        """The splits that a folder has. FileNotFoundError if it has none."""
        path = Path(path).expanduser()
        names = list(entries(path, Ignored())) if path.is_dir() else []
        found = [name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl")]
        found = found or [name for name in names if (path / name).is_dir() and _holds_images(path, path / name)]
        if not found:
            held = f"; it has {', '.join(map(printable, names[:5]))}{', …' if len(names) > 5 else ''}" if names else ""
            raise FileNotFoundError(
                f"path={str(path)!r}: no examples: it must hold SPLIT.jsonl or folders SPLIT/CLASS of images "
                f"({', '.join(PICTURE_SUFFIXES)}){held}"
            )
        return in_order(found)

    @property
    def fields(self) -> frozenset[str]:
        """All keys that some example has."""
        return frozenset(key for part in self._parts for key in part.fields)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        return self.pick(index, self.fields)

    def pick(self, index: int, fields, texts=()) -> dict:
        """The example with these fields alone; no other file is opened. texts: of them those that are no files."""
        part, at = self._find(index)
        example = {}
        for key, value in part[at].items():
            if key in fields:
                files = key not in texts and key in part.files
                if not files:
                    example[key] = value
                elif value != "":
                    example[key] = self._read(value, f"{part.where(at)}: {key}={value!r:.80}", key)
        return example | {"row": np.int64(index)}

    def _read(self, value, where: str, key: str):
        kind = _kind(value)
        if "://" in str(value):
            raise ValueError(f"{where}: an address; download the file, and name it relative to {self._path}")
        if not kind or kind == "unread":
            formats = ", ".join((*PICTURE_SUFFIXES, ".npy"))
            raise ValueError(
                f"{where}: not a file that is read ({formats}), as most of {key!r} are; convert it, or name {key!r} in "
                "data.options.texts if it is a text"
            )
        try:
            return decode(data_file(self._path, value, self._outside, where), kind, where)
        except FileNotFoundError as e:
            raise FileNotFoundError(f"{e}; if {key!r} is a text, name it in data.options.texts") from e

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

    fields: all keys; files: those that name files.
    """

    def __init__(self, file: Path, texts):
        self._file, self._starts, self._blank = file, array.array("q"), array.array("q")
        digest, start, named = hashlib.sha256(), 0, collections.defaultdict(lambda: [0, 0])
        with open(file, "rb") as lines:
            while line := lines.readline(LONGEST + 1):
                if line.strip(b" \t\r\n\xef\xbb\xbf"):
                    for key, value in self._parse(line, len(self._starts)).items():
                        counts = named[key]
                        if isinstance(value, str) and value:
                            counts[bool(_kind(value))] += 1
                    self._starts.append(start)
                    digest.update(line)
                else:
                    self._blank.append(len(self._starts))
                start += len(line)
        self.digest, self.fields = digest.hexdigest()[:12], frozenset(named)
        self.files = frozenset(k for k, (other, files) in named.items() if files > other and k not in texts)
        mixed = [f"{k} ({files:,} of {other + files:,})" for k, (other, files) in named.items()
                 if files and k not in self.files and k not in texts]  # fmt: skip
        self.report = f"{file.name}: texts that look like names of files: {', '.join(mixed)}" if mixed else ""

    def where(self, index) -> str:
        return f"{self._file}, line {index + 1 + bisect.bisect_right(self._blank, index)}"

    def _parse(self, line: bytes, index: int) -> dict:
        if len(line) > LONGEST:
            raise ValueError(f"{self.where(index)}: longer than {LONGEST:,} bytes; write one object a line")
        try:
            example = parse_json(line)
        except ValueError as e:
            raise ValueError(f"{self.where(index)}: not valid JSON ({e}); write one object a line, in UTF-8") from e
        if not isinstance(example, dict):
            raise ValueError(f"{self.where(index)}: {example!r:.40} is no object; write {{key: value, …}}")
        return {key: value for key, value in example.items() if value is not None}

    def __len__(self):
        return len(self._starts)

    def __getitem__(self, index) -> dict:
        with open(self._file, "rb") as lines:
            lines.seek(self._starts[index])
            return self._parse(lines.readline(LONGEST + 1), index)


class _Folder:
    """Images in folders of their classes, as torchvision's ImageFolder has them, but labelled by name."""

    fields, files, report = frozenset({"image", "label"}), frozenset({"image"}), ""

    def __init__(self, root: Path, folder: Path, ignored: Ignored, outside: bool):
        self._folder, self._files = folder, sorted(walk(folder, _why_not, ignored, root=root, outside=outside))
        self.digest = hashlib.sha256("\n".join(self._files).encode("utf8", "surrogateescape")).hexdigest()[:12]

    def where(self, index) -> str:
        return str(self._folder)

    def __len__(self):
        return len(self._files)

    def __getitem__(self, index) -> dict:
        file = self._files[index]
        label, _, _ = file.rpartition("/")
        named = {"label": well_formed(label.split("/")[0])} if label else {}
        return {"image": f"{self._folder.name}/{file}"} | named


def _holds_images(root: Path, folder: Path) -> bool:
    """Whether a folder is a split: one whose files are pictures, be it of formats that are not read."""

    def why_not(name):
        return "" if _kind(name) in ("image", "unread") else OTHER

    return any(walk(folder, why_not, Ignored(), root=root, outside=True))


def _why_not(name: str) -> str:
    """Why a file in a folder of classes is no example, "" if it is one."""
    return {"image": "", "unread": UNREAD}.get(_kind(name), OTHER)


def _kind(value) -> str:
    """`image` or `array` of the name of such a file, `unread` of a picture that nothing decodes, else ""."""
    if not isinstance(value, str):
        return ""
    kind = kind_of(value)
    return kind if kind in ("image", "array") else "unread" if value.lower().endswith(UNREAD_SUFFIXES) else ""
