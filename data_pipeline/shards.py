"""The files that hold a split of a data set cut into shards."""

import itertools
import re
from pathlib import Path


def find_shards(path, split: str, suffix: str) -> list[Path]:
    """The shards of one split, in the order of their names.

    Args:
      path: a folder with `SPLIT/*SUFFIX`, or with `*SUFFIX` files in whose names the split is a word
        (`imagenet-train-000001.tar`); or a pattern that says `{split}`, with ranges and choices in braces:
        `/data/imagenet-{split}-{000000..001281}.tar`, all of which must be there.
      suffix: such as ".tar".

    Raises:
      FileNotFoundError: no such folder; a shard that a pattern asks for is missing.
      ValueError: the folder has no such split.
    """
    path = str(path)
    if "{" in path:
        if "{split}" not in path:
            raise ValueError(f"path={path!r}: say {{split}} where its name stands, else all splits were the same")
        files = [Path(name) for name in expand_braces(path.replace("{split}", split))]
        missing = [file for file in files if not file.exists()]
        if len(missing) == len(files):
            raise ValueError(f"split={split!r}: {path} matches no file")
        if missing:
            raise FileNotFoundError(f"{missing[0]}: missing, as are {len(missing)} of {len(files)} shards of {path}")
        return files
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"path={path!r}: no such folder")
    word = re.compile(rf"(?<![a-zA-Z0-9]){re.escape(split)}(?![a-zA-Z0-9])")
    found = sorted((folder / split).glob(f"*{suffix}"))
    found = found or sorted(f for f in folder.glob(f"*{suffix}") if word.search(f.name.removesuffix(suffix)))
    if not found:
        others = sorted(f.relative_to(folder).as_posix() for f in [*folder.glob(f"*{suffix}"), *folder.glob("*/")])
        raise ValueError(
            f"split={split!r}: {path} has neither {split}/*{suffix} nor *{split}*{suffix}; it has "
            f"{', '.join(others[:5]) or 'nothing'}{', …' if len(others) > 5 else ''}"
        )
    return found


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
