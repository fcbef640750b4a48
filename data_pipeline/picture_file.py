"""Picture files: by which decoders they are read, within which limits, and what is kept of them."""

import contextlib
import io
import struct

import numpy as np
from PIL import ExifTags, Image

from data_pipeline.stored import Picture, on_white

# Named, since Pillow otherwise tries all that it has: a PostScript file called x.jpg would start Ghostscript.
DECODERS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM")
MAX_PIXELS = 2**26  # as many as 8192 × 8192
MAX_ASPECT = 1000  # of the sides
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_TOPS = {"L;2": 3, "L;4": 15, "I;12": 4095}  # the greatest number of raw modes that do not use all of their type


def read_picture(file) -> np.ndarray:
    """A file open for reading in binary → uint8[H, W, 3], or [H, W, 1] of a grey one, upright as its EXIF says.

    Transparency is laid on white, 16 bits become 8 over their whole range, palettes and CMYK become RGB; a
    `stored.Picture`, which has the numbers too, where these are others. Integers beyond 16 bits and floats stay what
    they are, [H, W, 1]. Of several frames it is the first. Broken metadata around whole pixels is passed over.

    Raises:
      PIL.UnidentifiedImageError: none of `DECODERS` knows it.
      Exception: of many kinds, for a broken file and for one beyond the limits, before its pixels are decoded.
    """
    start = file.tell()
    try:
        return _read(file)
    except Exception:
        file.seek(start)
        bare = _without_metadata(file.read())
        if bare is None:
            raise
        with contextlib.suppress(Exception):
            return _read(io.BytesIO(bare))
        raise


def _read(file) -> np.ndarray:
    with Image.open(file, formats=DECODERS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * min(width, height):
            raise ValueError(
                f"{width} × {height} pixels, and at most {MAX_PIXELS:,} and sides of {MAX_ASPECT} : 1 are read"
            )
        decoder = image.tile[0] if image.tile else None  # forgotten when it is loaded
        image.load()
        return _to_array(_upright(image), decoder)


def _upright(image):
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # broken EXIF says nothing
        return image
    return image if turn is None else image.transpose(turn)


def _to_array(image, decoder) -> np.ndarray:
    if image.mode in ("LA", "RGBA") and image.getextrema()[-1][0] == 255:  # opaque
        image = image.convert(image.mode[:-1])
    mode, (raw, top) = image.mode, _raw(decoder)
    if mode == "F":
        return np.asarray(image)[..., None]
    if mode.startswith("I"):
        return _deep(np.asarray(image), mode, raw, top)
    stored = np.asarray(image)[..., None] if mode in ("1", "L", "P") else None
    if raw.partition(";")[2].rstrip("R").endswith("I"):  # white is 0: nothing says which of both numbers is meant
        mode, stored = raw, None
    elif mode == "L" and top not in (0, 255):
        mode, stored = f"L of 0…{top}", _unscaled(stored, top, 255)
    if image.has_transparency_data:
        look = on_white(image)
    else:
        wanted = "L" if image.mode in ("1", "L") else "RGB"
        look = np.asarray(image if image.mode == wanted else image.convert(wanted))
        look = look[..., None] if wanted == "L" else look
        if mode in ("L", "RGB"):  # the numbers are what it looks like
            return look
    return Picture.of(look, mode, stored if stored is None else stored.astype(np.uint8))


def _deep(pixels, mode, raw, top) -> np.ndarray:
    """Integers of more than 8 bits [H, W]."""
    if pixels.min() < 0 or pixels.max() > 65535:
        return pixels[..., None]
    pixels = pixels.astype(np.uint16)[..., None]
    if raw == "I;12":
        return Picture.of((pixels * (255 / top)).round().astype(np.uint8), raw, pixels)
    look = (pixels / 257).round().astype(np.uint8)
    return Picture.of(look, mode, _unscaled(pixels, top, 65535) if top else pixels)


def _raw(decoder) -> tuple[str, int]:
    """(the raw mode of a file, its greatest number; 0 if that of its type), of what Pillow calls a tile."""
    if decoder is None:
        return "", 0
    codec, _, _, args = decoder
    raw, *more = args if isinstance(args, tuple) else (args,)
    if not isinstance(raw, str):
        return "", 0
    return raw, more[0] if more and codec.startswith("ppm") else _TOPS.get(raw.removesuffix("R"), 0)


def _unscaled(pixels, top: int, full: int):
    """Pillow spreads 0 … top over the whole type; back to what the file holds."""
    return (pixels * (top / full)).round().astype(pixels.dtype)


def _without_metadata(data: bytes) -> bytes | None:
    """A PNG or a JPEG with nothing but what its pixels need; None for another file."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"".join([data[:8], *_png_chunks(data)])
    return _bare_jpeg(data) if data.startswith(b"\xff\xd8") else None


def _png_chunks(data):
    at = 8
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            yield data[at : at + 12 + size]
        at += 12 + size


def _bare_jpeg(data) -> bytes:
    """Without the segments APP1 … APP15 and comments in front of the scan, except Adobe's, which tells the colours."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        marker, size = data[at + 1], 2 + struct.unpack_from(">H", data, at + 2)[0]
        adobe = marker == 0xEE and size == 16
        if adobe or not (0xE1 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[at : at + size])
        at += size
    return b"".join([*kept, data[at:]])
