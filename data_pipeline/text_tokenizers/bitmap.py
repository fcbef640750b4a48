"""Texts as pictures of themselves, cut into patches: what two words look alike in, a model sees (PIXEL, arXiv
2207.06991)."""

import functools
import hashlib
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.plain_text import well_formed

SIDE, TOP = 16, 2  # pixels of a patch, and those above a line
UNKNOWN = "¤"


class Tokenizer:
    """One line of Pillow's own bitmap font, 6 pixels a character, so that a patch shows two or three of them. It has
    Latin-1; other characters are written in it where their compatibility decomposition has some, else each is ¤.

    There are no ids: a token is a row of `width` numbers, 1 where there is ink, and a text ends where its rows do.
    """

    vocab_size, width = 0, SIDE**2

    @property
    def digest(self) -> str:
        drawn = self.encode("".join(map(chr, range(33, 256))), 999)
        return hashlib.sha256(drawn.tobytes()).hexdigest()

    def encode(self, text: str, max_len: int, *, keep_end: bool = False) -> np.ndarray:
        """float32 `[n, width]`, n ≤ max_len, none of an empty text; keep_end: there is no end to be kept."""
        plain = _plain(text)
        count = min(-(-round(_font().getlength(plain)) // SIDE), max_len)
        line = Image.new("L", (max(count, 1) * SIDE, SIDE))
        ImageDraw.Draw(line).text((0, TOP), plain, fill=255, font=_font())
        patches = np.asarray(line).reshape(SIDE, -1, SIDE).swapaxes(0, 1)[:count]
        return (patches.reshape(count, self.width) / np.float32(255)).astype(np.float32)


def _plain(text: str) -> str:
    """In Latin-1, on one line; what is not printed, such as a control character, is left out."""
    line, out = unicodedata.normalize("NFC", " ".join(well_formed(text).split())), []
    for c in filter(str.isprintable, line):
        forms = c, *(d for d in unicodedata.normalize("NFKD", c) if not unicodedata.combining(d))
        latin = [form for form in forms if ord(form) < 256]
        out.append(c if c in latin else "".join(latin) or UNKNOWN)
    return "".join(out)


@functools.cache
def _font():
    return ImageFont.load_default_imagefont()
