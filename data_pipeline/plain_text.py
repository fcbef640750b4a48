"""Texts and JSON as files hold them: with byte order marks, lone surrogates and NaN, and without what is ambiguous."""

import codecs
import json
import math
import numbers

NESTED = 100  # levels of lists and objects at most: deeper ones are an attack or a mistake


def well_formed(text: str) -> str:
    """A text with every lone surrogate (half a character, as `"\\ud83d"` of cut JSON) as U+FFFD: UTF-8 has none."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def as_text(value) -> str | None:
    """A text, or a number as it is written; None of what says nothing: null, NaN, "". ValueError for anything else."""
    if isinstance(value, str):
        return value or None
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if value is None or (number and value != value):
        return None
    if not number or value in (math.inf, -math.inf):
        raise ValueError(f"{value!r:.40} is no text")
    return str(value)


def decode_text(data: bytes) -> str:
    """UTF-8, or UTF-16 that says so by its byte order mark. UnicodeDecodeError, a ValueError, for anything else."""
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if marked else "utf-8-sig")


def parse_json(data: bytes):
    """JSON → a value. NaN, as pandas writes what is missing, is None; lone surrogates are U+FFFD.

    ValueError: no JSON, a key twice in one object, more than NESTED levels.
    """
    try:
        value = json.loads(decode_text(data), object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError as e:
        raise ValueError(f"nested deeper than {NESTED} levels") from e
    if data.count(b"[") + data.count(b"{") > NESTED:
        _check_depth(value)
    return _mended(value) if b"\\u" in data else value


def _object(pairs) -> dict:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {well_formed(twice)!r} is there twice")
    return made


def _constant(name: str):
    return None if name == "NaN" else float(name)


def _check_depth(value):
    level, depth = [value], 0
    while level := [held for held in level if isinstance(held, list | dict)]:
        depth += 1
        if depth > NESTED:
            raise ValueError(f"nested deeper than {NESTED} levels")
        level = [inner for held in level for inner in (held.values() if isinstance(held, dict) else held)]


def _mended(value):
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_mended(v) for v in value]
    return {well_formed(k): _mended(v) for k, v in value.items()} if isinstance(value, dict) else value
