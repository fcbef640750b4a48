"""A request of the page as it comes from the network: checked whole before the model sees any of it."""

import base64
import io
import json
import math

import numpy as np
from PIL import Image

from data_pipeline.decoding import decode
from data_pipeline.image import as_channels
from data_pipeline.picture_file import DECODERS
from data_pipeline.stored import as_picture

PIXELS = 2**24  # of a picture, before it is decoded
TEXT = 10_000  # characters
# {setting: (type, least, greatest)}; `method` and `schedule` are words, and last_temperature may be null.
RANGES = {
    "seed": (int, 0, 2**31 - 1), "steps": (int, 1, 1000), "top_k": (int, 0, 2**31 - 1), "top_p": (float, 0.0, 1.0),
    "temperature": (float, 0.0, 1e6), "last_temperature": (float, 0.0, 1e6), "noise": (float, 0.0, 1e6),
    "guidance": (float, -1e6, 1e6),
}  # fmt: skip
WORDS = ("method", "schedule")


def parse(body: bytes) -> dict:
    """JSON → {"given": {name: text}, "targets": [names], "settings": {name: value}}. ValueError for anything else."""
    try:
        request = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"the request is no JSON: {type(e).__name__}: {e}") from e
    if not isinstance(request, dict) or not request.keys() <= {"given", "targets", "settings"}:
        raise ValueError('the request must be {"given": {…}, "targets": […], "settings": {…}}')
    given, targets, settings = (
        request.get(k, kind()) for k, kind in (("given", dict), ("targets", list), ("settings", dict))
    )
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise ValueError("given: must be {modality: a text or a picture as data URL}")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise ValueError("targets: must be a list of modalities")
    if not targets:
        raise ValueError("targets: choose at least one modality to make")
    if len(set(targets)) < len(targets):
        raise ValueError(f"targets: {targets}: name each once")
    if not isinstance(settings, dict):
        raise ValueError("settings: must be {name: value}")
    return {"given": given, "targets": targets, "settings": {k: _setting(k, v) for k, v in settings.items()}}


def _refuse(constant):
    raise ValueError(f"{constant} is no number of JSON")


def _setting(name: str, value):
    if name in WORDS:
        if not isinstance(value, str):
            raise ValueError(f"settings: {name}={value!r:.40}: must be a word")
        return value
    if name not in RANGES:
        raise ValueError(f"settings: {name!r:.40} is none of {', '.join((*WORDS, *RANGES))}")
    if name == "last_temperature" and value is None:
        return None
    kind, least, greatest = RANGES[name]
    number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= greatest:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"settings: {name}={value!r:.40}: must be {what} from {least:g} to {greatest:g}")
    return kind(value)


def text(name: str, value: str) -> str:
    """A text that is given. ValueError if it is too long, or no Unicode."""
    if len(value) > TEXT:
        raise ValueError(f"given {name!r}: {len(value)} characters: at most {TEXT}")
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"given {name!r}: character {e.start} is half of one (a lone surrogate)") from e
    return value


def read_picture(name: str, url: str, channels: int) -> np.ndarray:
    """A data URL → uint8 `[H, W, C]`, what is transparent on white."""
    try:
        data = io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True))
        with Image.open(data, formats=DECODERS) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"{image.width} × {image.height} pixels, at most {PIXELS}")
        data.seek(0)
        return as_channels(as_picture(decode(data, "image", "what was sent")), channels)
    except Exception as e:  # of Pillow, whose decoders raise what they like
        raise ValueError(f"given {name!r}: is no picture ({e}); upload a PNG, JPEG or WebP, or draw one") from e
