"""Pictures as they look, and the numbers that are stored of them; with 8 bits of grey or colour these are the same."""

import numpy as np
from PIL import Image


class Picture(np.ndarray):
    """uint8[H, W, 1 or 3] as it looks, of a file that stores other numbers: bits, 16 bits, indices of a palette, alpha.

    mode: what Pillow calls that; stored: those numbers, [H, W, 1], or None if a pixel has no single one. An array that
    is made of it keeps neither: numbers are asked for before anything else is done.
    """

    mode, stored = "", None

    def __array_finalize__(self, made_of):
        self.mode = getattr(made_of, "mode", "")

    @classmethod
    def of(cls, look: np.ndarray, mode: str, stored: np.ndarray | None) -> "Picture":
        made = look.view(cls)
        made.mode, made.stored = mode, stored
        return made

    def __reduce__(self):
        return Picture.of, (np.asarray(self), self.mode, self.stored)


def is_picture(value) -> bool:
    """uint8[H, W, 1 or 3], at least a pixel."""
    eight = isinstance(value, np.ndarray) and value.dtype == np.uint8
    return eight and value.ndim == 3 and value.shape[2] in (1, 3) and value.size > 0


def is_clip(value) -> bool:
    """uint8[T, H, W, 1 or 3]."""
    return isinstance(value, np.ndarray) and value.ndim == 4 and len(value) > 0 and is_picture(value[0])


def gathered(value):
    """A list of images as one: the only one, or the frames of a clip. ValueError if they are of several sizes."""
    if not isinstance(value, list) or not any(isinstance(v, np.ndarray) and v.ndim == 3 for v in value):
        return value
    images = [v for v in value if v is not None]
    if len({np.shape(v) for v in images}) > 1:
        raise ValueError(f"{len(images)} pictures of several sizes in one list; give each a field of its own")
    return images[0] if len(images) == 1 else np.stack(images)


def as_picture(value: np.ndarray) -> np.ndarray:
    """An image or an array of one as it looks: uint8[H, W, 3], or [H, W, 1] of a grey one.

    16 bits become 8 over their whole range, false and true black and white, and what is transparent lies on white.

    Raises:
      ValueError: another shape, or numbers whose range nothing tells.
    """
    if is_picture(value):
        return value
    pixels = _with_channels(value)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16, bool):
        raise ValueError(
            f"is {describe(value)}: a picture is uint8 or uint16[H, W, C]; of other numbers state the range"
        )
    if pixels.dtype == np.uint16:
        pixels = (pixels / 257).round().astype(np.uint8)
    elif pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    if pixels.shape[2] in (1, 3):
        return pixels
    return on_white(Image.fromarray(np.ascontiguousarray(pixels), {2: "LA", 4: "RGBA"}[pixels.shape[2]]))


def numbers(value: np.ndarray) -> np.ndarray:
    """What is stored of each pixel, exactly: [H, W, 1] of its own type, of a palette the indices.

    ValueError, which names the mode, for colours and transparency: they hold no single number.
    """
    stored = _with_channels(value.stored if isinstance(value, Picture) else value)
    if stored is not None and stored.shape[2] == 3 and (stored == stored[..., :1]).all():
        stored = stored[..., :1]  # grey, saved as colours
    if stored is None or stored.shape[2] != 1 or stored.dtype.kind not in "buif":
        raise ValueError(
            f"is {describe(value)}: one number a pixel is wanted; store grey or indices, without transparency"
        )
    return stored


def on_white(image: Image.Image) -> np.ndarray:
    """LA, RGBA or what converts to it → uint8[H, W, C]."""
    grey = image.mode in ("1", "L", "LA")
    laid = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    pixels = np.asarray(laid.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def describe(value) -> str:
    """What an error calls an image: its type, its shape and its mode in Pillow."""
    if not isinstance(value, np.ndarray):
        return f"{value!r:.40}"
    plain = {("uint8", 1): "L", ("uint8", 3): "RGB", ("int32", 1): "I", ("float32", 1): "F", ("uint16", 1): "I;16"}
    mode = getattr(value, "mode", "") or plain.get((value.dtype.name, value.shape[2] if value.ndim == 3 else 1), "")
    return f"{value.dtype}{list(value.shape)}{mode and f' of mode {mode}'}"


def _with_channels(value) -> np.ndarray | None:
    """[H, W] or [H, W, C of 1 … 4] → [H, W, C]; None for anything else."""
    if not isinstance(value, np.ndarray) or value.ndim not in (2, 3) or value.size == 0:
        return None
    pixels = value[..., None] if value.ndim == 2 else value
    return pixels if 1 <= pixels.shape[2] <= 4 else None
