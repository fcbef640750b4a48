"""What a file holds by the suffix of its name: an image, an array, a text, a number or JSON."""

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_pipeline.image import PICTURE_SUFFIXES, to_array
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
      `image`: uint8[H, W, 3], or [H, W, 1] of a grey one; `array`: what NumPy saved; `text`: a string without the end
      of its last line; `number`: an int; `json`: what JSON says.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it holds something else, or is broken.
    """
    remedy = "restore the file, or take the example out"
    try:
        if kind == "image":
            with Image.open(file) as image:
                return to_array(image)
        if kind == "array":
            return np.load(file, allow_pickle=False)
        return _parse(file.read(), kind)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{where}: no such file; {remedy}") from e
    except UnidentifiedImageError as e:  # its own words hold an address in memory
        raise ValueError(f"{where}: not a readable image (Pillow knows no such format); {remedy}") from e
    except Exception as e:  # Pillow and NumPy raise many kinds for broken files
        raise ValueError(f"{where}: not a readable {kind} ({e}); {remedy}") from e


def _parse(data: bytes, kind: str):
    if kind == "":
        return data
    if kind == "json":
        return parse_json(data)
    text = decode_text(data)
    return int(text) if kind == "number" else text.rstrip("\r\n")
