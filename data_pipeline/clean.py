"""Captions as they are found on the web, made plain: one line of Unicode NFC without markup, addresses and controls."""

import html
import re
import unicodedata

_ADDRESS = re.compile(r"(?:\b[a-z][a-z0-9+.-]*://|\bwww\.)[^\s<>\"]*", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^<>]*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
# Kept of the format characters (Cf): the joiners and tags that emoji and Indic and Persian words need.
_FORMATS = frozenset({"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))})


def clean_text(text: str) -> str:
    """A text after these steps, repeated until none changes anything, so that clean(clean(text)) == clean(text):

    HTML entities become their characters (`&amp;` → `&`), tags and comments a space; addresses (`https://…`, `www.…`)
    are taken out; Unicode NFC; control characters (Cc), lone surrogates (Cs), what is unassigned (Cn), private (Co) or
    the replacement character, and format characters (Cf) but the two joiners go, those that part words as a space; runs
    of white space become one space, none at the ends.
    """
    # Every round but the last shortens the text or composes it further: there are finitely many.
    while (cleaned := _once(text)) != text:
        text = cleaned
    return text


def _once(text: str) -> str:
    text = _TAG.sub(" ", html.unescape(text))
    text = _ADDRESS.sub(" ", text)
    text = "".join(_keep(c) for c in unicodedata.normalize("NFC", text))
    return " ".join(text.split())


def _keep(c: str) -> str:
    if c.isspace():
        return " "
    gone = c == "\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co")
    return c if c in _FORMATS or not gone else ""
