"""The files that hold a split of a data set cut into shards."""

import itertools
import os
import re
from pathlib import Path

from data_pipeline.folders import OTHER, Ignored, data_file, entries

# Names of splits by which one looks for those that a folder has, in the order in which all of them are read.
KNOWN = ("train", "training", "valid", "validation", "val", "dev", "eval", "testing", "test")


def find_shards(path, split: str, suffix: str, outside: bool = False, ignored: Ignored | None = None) -> list[Path]:
    """The shards of one split, in the order of their names.

    Args:
      path: a folder with `SPLIT/*SUFFIX`, or with `*SUFFIX` files in whose names the split is a word
        (`imagenet-train-000001.tar`); or a pattern that says `{split}`, with ranges and choices in braces:
        `/data/imagenet-{split}-{000000..001281}.tar`, all of which must be there.
      suffix: such as ".tar".
      outside: whether links may lead out of the folder (of a pattern: out of the one before its first brace).
      ignored: where what is no shard is counted.

    Raises:
      FileNotFoundError: no such folder; a shard that a pattern asks for is missing.
      ValueError: the folder has no such split; what is no file, or leads outside.
    """
    path, ignored = str(Path(path).expanduser()), Ignored() if ignored is None else ignored
    if "{" in path:
        return _matching(path, split, outside)
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"path={path!r}: no such folder")
    found = _held(folder, suffix, ignored)
    own = found.get(split) or [name for name in found[""] if _word(split, name.removesuffix(suffix))]
    if not own:
        others = list(entries(folder, Ignored()))
        raise ValueError(
            f"split={split!r}: {path} has neither {split}/*{suffix} nor *{split}*{suffix}; it has "
            f"{', '.join(others[:5]) or 'nothing'}{', …' if len(others) > 5 else ''}"
        )
    return [data_file(folder, name, outside) for name in own]


def find_splits(path, suffix: str) -> list[str]:
    """The splits of which `find_shards` finds shards: folders, and what names of files say of KNOWN."""
    path = str(Path(path).expanduser())
    if "{" in path:
        files = {name: expand_braces(path.replace("{split}", name)) for name in KNOWN if "{split}" in path}
        return [name for name, own in files.items() if any(Path(file).exists() for file in own)]
    if not Path(path).is_dir():
        raise FileNotFoundError(f"path={path!r}: no such folder")
    found = _held(Path(path), suffix, Ignored())
    words = {_last_word(file.removesuffix(suffix)) for file in found[""]} - {""}
    return in_order({*words, *(name for name, own in found.items() if name and own)})


def root_of(path) -> Path:
    """The folder of a data set: of a pattern the one before its first brace."""
    folder, brace, _ = str(Path(path).expanduser()).partition("{")
    return Path(folder + "x").parent if brace else Path(folder)


def in_order(splits) -> list[str]:
    """The splits as KNOWN has them, what is evaluated on last; others follow `train`, by their names."""
    place = {name: number for number, name in enumerate(KNOWN)}
    return sorted(splits, key=lambda name: (place.get(name, 0.5), name))


def _matching(pattern: str, split: str, outside: bool) -> list[Path]:
    if "{split}" not in pattern:
        raise ValueError(f"path={pattern!r}: say {{split}} where its name stands, else all splits were the same")
    files = [Path(name) for name in expand_braces(pattern.replace("{split}", split))]
    missing = [file for file in files if not file.exists()]
    if len(missing) == len(files):
        raise ValueError(f"split={split!r}: {pattern} matches no file")
    if missing:
        raise FileNotFoundError(f"{missing[0]}: missing, as are {len(missing)} of {len(files)} shards of {pattern}")
    root = root_of(pattern)
    return [data_file(root, os.path.relpath(file, root), outside) for file in files]


def _held(folder: Path, suffix: str, ignored: Ignored) -> dict[str, list[str]]:
    """{subfolder, "" for the folder itself: names of its files with the suffix, relative to the folder}."""
    held = {"": []}
    for name in entries(folder, ignored):
        if (folder / name).is_dir():
            inner = entries(folder / name, ignored, folder)
            held[name] = [f"{name}/{file}" for file in inner if file.endswith(suffix)]
        elif name.endswith(suffix):
            held[""].append(name)
        else:
            ignored.add(OTHER, name)
    return held


def _last_word(name: str) -> str:
    """Which of KNOWN a name says last: `test-of-time-train-0` is of `train`."""
    said = [(match.start(), split) for split in KNOWN for match in _words(split, name)]
    return max(said, default=(0, ""))[1]


def _word(split: str, name: str) -> bool:
    return next(_words(split, name), None) is not None


def _words(split: str, name: str):
    return re.finditer(rf"(?<![a-zA-Z0-9]){re.escape(split)}(?![a-zA-Z0-9])", name)


def expand_braces(pattern: str) -> list[str]:
    """`a-{00..02}.{x,y}` → a-00.x, a-00.y, a-01.x, …: ranges of whole numbers, as wide as the first, and choices."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[text] if i % 2 == 0 else _choices(text) for i, text in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(text: str) -> list[str]:
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if not bounds:
        return text.split(",")
    first, last = bounds.groups()
    return [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
