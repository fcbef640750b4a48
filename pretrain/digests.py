"""The sha256 of every file of a folder, in a file beside them that `sha256sum -c` reads too."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor

from pretrain.storage import locate
from pretrain.storage import write as write_file

FILE = "SHA256SUMS"
NONE = "# none were asked for\n"
BLOCK = 2**20  # bytes


def write(folder, *, skip=(), empty=False):
    """Writes SHA256SUMS of all files below a folder but those in `skip`; with `empty` one that says there are none."""
    files = {} if empty else {name: file for name, file in _files(locate(folder)) if name not in (FILE, *skip)}
    with ThreadPoolExecutor(8) as pool:
        found = zip(files, pool.map(_sha256, files.values()))
        text = "".join(f"{digest}  {name}\n" for name, digest in found)
    write_file(locate(folder) / FILE, NONE if empty else text)


def read(folder) -> dict[str, str]:
    """{file: sha256}; ValueError if the list itself is missing or broken."""
    file = locate(folder) / FILE
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f"{file} cannot be read ({e})") from e
    if text == NONE:
        return {}
    lines = [re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line) for line in text.split("\n")[:-1]]
    if not lines or not all(lines) or not text.endswith("\n"):
        raise ValueError(f"{file} is broken")
    return {line[2]: line[1] for line in lines}


def check(folder) -> list[str]:
    """What is wrong with the files of a folder, a phrase each that names the file."""
    folder = locate(folder)
    try:
        wanted = read(folder)
    except ValueError as e:
        return [str(e)]
    with ThreadPoolExecutor(8) as pool:
        return [p for p in pool.map(lambda name: _problem(folder, name, wanted[name]), wanted) if p]


def _problem(folder, name: str, digest: str) -> str:
    file = folder / name
    try:
        seen = _state(file, digest)
        if seen in _SOUND:
            return ""
        if _sha256(file) != digest:
            return f"{file} has another sha256 than {folder / FILE} says"
        _SOUND.update({seen} - {None})
        return ""
    except FileNotFoundError:
        return f"{file} is missing, which {folder / FILE} lists"
    except OSError as e:
        return f"{file} cannot be read ({e.strerror or e})"


# What this process has found to be as listed: a start looks at the newest checkpoint several times, and it may be huge.
_SOUND = set()


def _state(file, digest: str) -> tuple | None:
    """What another writing of a file changes; None in a bucket, which tells too little."""
    if str(file).startswith("gs://"):
        return None
    found = os.stat(file)
    return str(file), digest, found.st_ino, found.st_size, found.st_mtime_ns


def _sha256(file) -> str:
    h = hashlib.sha256()
    with file.open("rb") as f:
        while block := f.read(BLOCK):
            h.update(block)
    return h.hexdigest()


def _files(folder, above: str = ""):
    """(name, path) of every file below a folder."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path, f"{above}{path.name}/")
        else:
            yield above + path.name, path
