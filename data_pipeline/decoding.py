"""What a file holds by the suffix of its name: an image, an array, a text, a number or JSON."""

import json
import math
import os
import stat

import numpy as np
from PIL import UnidentifiedImageError

from data_pipeline.image import PICTURE_SUFFIXES
from data_pipeline.picture_file import read_picture

KINDS = dict.fromkeys(PICTURE_SUFFIXES, "image") | {".npy": "array", ".txt": "text", ".cls": "number", ".json": "json"}


def kind_of(name: str) -> str:
    """A value of KINDS, or "" for a suffix that is none of them."""
    return KINDS.get("".join(name.lower().rpartition(".")[1:]), "")


def decode(file, kind: str, where: str):
    """What a file holds.

    Args:
      file: a path, or a file open for reading in binary.
      kind: of `kind_of`. Of "" the bytes are given as they are.
      where: what an error calls it.

    Returns:
      `image`: uint8[H, W, 3], or [H, W, 1] of a grey one, see `picture_file.read_picture`; `array`: what NumPy saved;
      `text`: a string without the end of its last line; `number`: an int; `json`: what JSON says.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it holds something else, or is broken.
    """
    remedy = "restore the file, or take the example out"
    try:
        if isinstance(file, str | os.PathLike):
            with _open(file) as opened:
                return _decode(opened, kind)
        return _decode(file, kind)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{where}: no such file; {remedy}") from e
    except UnidentifiedImageError as e:  # its own words hold an address in memory
        raise ValueError(f"{where}: not a readable image (of none of the formats that are read); {remedy}") from e
    except Exception as e:  # Pillow and NumPy raise many kinds for broken files
        raise ValueError(f"{where}: not a readable {kind} ({e}); {remedy}") from e


def _open(path):
    """A file, never a pipe, which would be waited for. Of an open file, unlike of a path, Pillow maps nothing into
    memory, where one that is cut meanwhile would end the process."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("no regular file")
    return file


def _decode(file, kind: str):
    if kind == "image":
        return read_picture(file)
    return _array(file) if kind == "array" else _parse(file.read(), kind)


def _array(file) -> np.ndarray:
    """What NumPy saved. ValueError for pickles, and for a header that promises more or less than the file holds."""
    start, version = file.tell(), np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("its objects are pickled, which would run what they say: save plain numbers")
    said, begin = math.prod(shape) * dtype.itemsize, file.tell()
    held = file.seek(0, os.SEEK_END) - begin
    if min(shape, default=0) < 0 or said > held:
        raise ValueError(f"its header says {dtype}{list(shape)}, which are {said:,} bytes, and {held:,} follow")
    file.seek(start)
    return np.load(file, allow_pickle=False)


def _parse(data: bytes, kind: str):
    if kind == "":
        return data
    text = data.decode("utf8")
    return {"text": lambda t: t.rstrip("\r\n"), "number": int, "json": json.loads}[kind](text)
