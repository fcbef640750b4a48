"""What of a folder is data, said once for every source.

Hidden files and folders and those of operating systems are not, nor what has another suffix: they are counted in the
source's `report`. A link is what it leads to; one that leads back up is left and counted. Nothing is read outside the
source's folder, by `..`, an absolute path or a link, unless `data.options.outside=True` says so. Pipes, sockets and
devices are refused, never waited for.
"""

import os
import re
import stat
from pathlib import Path

_SYSTEM = re.compile(
    r"(?!\.{1,2}$)\..+|__MACOSX|__pycache__|Thumbs\.db|ehthumbs\w*\.db|desktop\.ini|Icon\r|@eaDir|\$RECYCLE\.BIN|"
    r"System Volume Information|lost\+found",
    re.IGNORECASE,
)
_OURS = re.compile(r"\..*\.index\.npz")  # what `data_pipeline.tar` keeps
HIDDEN, BACK, OTHER = "hidden or of the system", "links that lead back up", "of other kinds"


class Ignored:
    """What a source found in its folder and does not read: {why: (how much, the first of it)}."""

    def __init__(self):
        self.found = {}

    def add(self, why: str, name):
        count, first = self.found.get(why, (0, name))
        self.found[why] = count + 1, first

    def update(self, other: "Ignored"):
        for why, (count, first) in other.found.items():
            before, own = self.found.get(why, (0, first))
            self.found[why] = before + count, own

    def __str__(self) -> str:
        """`ignored: 2 hidden or of the system (such as .DS_Store)`; "" if there is nothing."""
        each = [f"{count:,} {why} (such as {printable(first)})" for why, (count, first) in self.found.items()]
        return f"ignored: {', '.join(each)}" if each else ""


def is_system(name) -> bool:
    """Whether a file, or a folder that it is in, is hidden or an operating system's. name: relative to the source."""
    return any(_SYSTEM.fullmatch(part) for part in str(name).split("/"))


def printable(name) -> str:
    """A file's name without the bytes that are no UTF-8."""
    return str(name).encode("utf8", "surrogateescape").decode("utf8", "replace")


def data_file(root, name, outside: bool = False, where: str = "") -> Path:
    """The path of a regular file. name: as data give it, relative to `root`; where: what an error calls it.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it lies outside `root`, and `outside` does not allow it; or it is no regular file.
    """
    return check_file(root, Path(root, name), outside, where)


def check_file(root, path, outside: bool = False, where: str = "") -> Path:
    """`data_file` of a path that begins with that of the source's folder."""
    path = Path(path)
    where = where or printable(path)
    try:
        check_inside(root, path, outside, where)
        mode = path.stat().st_mode
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{where}: no such file; restore the file, or take the example out") from e
    except OSError as e:  # a link to itself, a name too long, a folder that may not be read
        raise ValueError(f"{where}: {e.strerror}; mend the path, or take the example out") from e
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{where}: {kinds.get(stat.S_IFMT(mode), 'a device')}, no file; put a regular file there")
    return path


def check_inside(root, path, outside: bool, where: str):
    """ValueError if a path, with all its links followed, is not in `root`."""
    if "\0" in str(path):
        raise ValueError(f"{where}: no file has a name with a zero byte; mend the path")
    if not outside and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise ValueError(
            f"{where}: leads out of {printable(root)}: put the file there, or set data.options.outside=True "
            "(--outside of a tool) if you trust these data"
        )


def entries(folder, ignored: Ignored, root=None):
    """The names in a folder that are neither hidden nor of the system, in order; the others are counted."""
    for name in sorted(os.listdir(folder)):
        if not is_system(name):
            yield name
        elif not _OURS.fullmatch(name):
            ignored.add(HIDDEN, os.path.relpath(os.path.join(folder, name), root or folder))


def walk(folder, why_not, ignored: Ignored, *, root, outside: bool = False):
    """The regular files below a folder, relative to it with `/` between; see `data_file`.

    why_not: name → why a file is no example, for `ignored`; "" if it is one.
    """

    def below(at: str, above: tuple):
        for name in entries(os.path.join(folder, at), ignored, folder):
            path, relative = os.path.join(folder, at, name), f"{at}/{name}" if at else name
            if os.path.isdir(path):
                real = os.path.realpath(path)
                if real in above:
                    ignored.add(BACK, relative)
                    continue
                if os.path.islink(path):
                    check_inside(root, path, outside, printable(path))
                yield from below(relative, (*above, real))
            elif why := why_not(name):
                ignored.add(why, relative)
            else:
                if os.path.islink(path) or not os.path.isfile(path):
                    check_file(root, path, outside)
                yield relative

    yield from below("", (os.path.realpath(folder),))
