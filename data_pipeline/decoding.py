"""What a file holds by the suffix of its name: an image, an array, a text, a number or JSON."""

import math
import os
import stat
import threading

import numpy as np
from PIL import UnidentifiedImageError

from data_pipeline.image import PICTURE_SUFFIXES
from data_pipeline.picture_file import read_picture
from data_pipeline.plain_text import decode_text, parse_json

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


# CPython 3.11's parser, which reads the headers of arrays, fails now and then when several threads are in it.
_HEADERS = threading.Lock()


def _array(file) -> np.ndarray:
    """What NumPy saved. ValueError for pickles, and for a header that promises more or less than the file holds."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with _HEADERS:
        shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("its objects are pickled, which would run what they say: save plain numbers")
    said, begin = math.prod(shape) * dtype.itemsize, file.tell()
    held = file.seek(0, os.SEEK_END) - begin
    if min(shape, default=0) < 0 or said > held:
        raise ValueError(f"its header says {dtype}{list(shape)}, which are {said:,} bytes, and {held:,} follow")
    file.seek(begin)
    return np.ndarray(shape, dtype, bytearray(file.read(said)), order="F" if fortran else "C")


def _parse(data: bytes, kind: str):
    if kind == "":
        return data
    if kind == "json":
        return parse_json(data)
    text = decode_text(data)
    return int(text) if kind == "number" else text.rstrip("\r\n")
