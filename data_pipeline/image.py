"""Images cropped and resized, and the edges and colour palettes drawn from their pixels."""

import math
import re

import cv2
import numpy as np
from PIL import Image

from data_pipeline.stored import is_picture

BICUBIC = Image.Resampling.BICUBIC
NEAREST = Image.Resampling.NEAREST
# Of files that are pictures: those that are read, and those that nothing here decodes, to be counted and named.
PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
UNREAD_SUFFIXES = (
    ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".tga", ".ico", ".svg", ".eps", ".psd", ".exr", ".hdr", ".dng", ".cr2",
    ".nef", ".arw",
)  # fmt: skip
MAX_COLOURS = 7  # of a palette, as in 4M-21
NO_LABEL = 255  # of a pixel of a label map that no class is said of, as in PASCAL VOC


def apply_crop(
    image: np.ndarray,
    setting: np.ndarray,
    size: int | tuple[int, int],
    resample: Image.Resampling = BICUBIC,
    frame: tuple[int, int] | None = None,
    fill: int | None = None,
) -> np.ndarray:
    """Crops, resizes and perhaps mirrors an image.

    Args:
      image: uint8[H, W, C] with C 1 or 3.
      setting: (top, left, height, width, flip), a row of `crop_settings`.
      size: pixels of the result, a side or (height, width).
      resample: BICUBIC for colour and grey; NEAREST for masks and labels, so that no new values appear.
      frame: (height, width) of the image that `setting` was drawn for, of which this one may be a larger or smaller
        version; None for this image.
      fill: the value of what lies outside the image; None if a crop must not leave it.

    Returns:
      uint8[size, size, C] or uint8[height, width, C].

    Raises:
      ValueError: wrong image, or a crop that leaves it.
    """
    _check_image(image)
    height, width = frame or image.shape[:2]
    top, left, rows, columns, flip = (int(x) for x in setting)
    bottom, right = min(top + rows, height), min(left + columns, width)
    leaves = min(top, left) < 0 or bottom < top + rows or right < left + columns
    if leaves and fill is not None and 0 <= top < bottom and 0 <= left < right:
        made = np.full((*(int(side) for side in np.broadcast_to(size, 2)), image.shape[2]), fill, np.uint8)
        part = made[: max(1, round((bottom - top) / rows * len(made)))]
        part = part[:, : max(1, round((right - left) / columns * made.shape[1]))]
        part[...] = apply_crop(image, (top, left, bottom - top, right - left, 0), part.shape[:2], resample, frame)
        return np.ascontiguousarray(made[:, ::-1] if flip else made)
    if leaves or min(rows, columns) < 1:
        raise ValueError(
            f"setting={setting} (top, left, height, width, flip) leaves an image of {(height, width)} (H, W): "
            "draw crop_settings with the size of this image."
        )
    # In pixels of this image, where the crop may begin and end within one. Products first: whole numbers stay whole.
    top, bottom = (y * image.shape[0] / height for y in (top, top + rows))
    left, right = (x * image.shape[1] / width for x in (left, left + columns))
    y, x = int(top), int(left)
    crop = image[y : math.ceil(bottom), x : math.ceil(right)]
    crop = _resize(crop, size, resample, (left - x, top - y, right - x, bottom - y))
    return np.ascontiguousarray(crop[:, ::-1] if flip else crop)


def centre_crop(image: np.ndarray, size: int | tuple[int, int], resample: Image.Resampling = BICUBIC) -> np.ndarray:
    """Resizes until the image just covers `size`, then cuts out its centre: the evaluation of CLIP.

    uint8[H, W, C] -> uint8[size, size, C] or uint8[height, width, C].
    """
    _check_image(image)
    height, width = (int(side) for side in np.broadcast_to(size, 2))
    rows, columns = image.shape[:2]
    # Of a long strip only the middle is resized: the rest would be memory that nobody sees.
    most = math.ceil(8 * columns * height / width), math.ceil(8 * rows * width / height)
    top, left = (max(n - m, 0) // 2 for n, m in zip((rows, columns), most))
    image = image[top : rows - top, left : columns - left]
    rows, columns = image.shape[:2]
    # As in CLIP the side that fits is exact and the other rounded down.
    if columns * height >= rows * width:
        rows, columns = height, max(width, int(height * columns / rows))
    else:
        rows, columns = max(height, int(width * rows / columns)), width
    top, left = (rows - height) // 2, (columns - width) // 2
    return _resize(image, (rows, columns), resample)[top : top + height, left : left + width]


def as_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Grey as colour by repetition, colour as grey by its luminance: uint8[H, W, C] -> uint8[H, W, channels]."""
    _check_image(image)
    if image.shape[2] == channels or channels not in (1, 3):
        return image
    if channels == 3:
        return image.repeat(3, axis=2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))[..., None]


def _resize(image, size, resample, box=None) -> np.ndarray:
    """uint8[H, W, C] -> uint8[height, width, C]; `box` (left, top, right, bottom) may lie between pixels."""
    height, width = (int(side) for side in np.broadcast_to(size, 2))
    channels = image.shape[2]
    image = np.ascontiguousarray(image if channels == 3 else image[..., 0])
    resized = Image.fromarray(image).resize((width, height), resample, box)
    return np.asarray(resized).reshape(height, width, channels)


def edges(rgb: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    """Canny edges, drawn black on white paper like line art.

    Args:
      rgb: uint8[H, W, C] with C 1 or 3. Of colour, the channel with the strongest gradient counts.
      low, high: hysteresis thresholds on the L1 norm of the Sobel gradient.

    Returns:
      uint8[H, W, 1]: 0 = edge, 255 = paper.
    """
    _check_image(rgb)
    return 255 - cv2.Canny(np.ascontiguousarray(rgb), low, high)[..., None]


def palette(rgb: np.ndarray, n: int) -> np.ndarray:
    """The dominant colours, most frequent first: median cut refined by k-means. Deterministic, a few ms at 64 x 64.

    Args:
      rgb: uint8[H, W, 3].
      n: number of colours, 1..256.

    Returns:
      uint8[n, 3], all different; fewer rows if the image has fewer distinct colours (then exactly these) or, rarely, if
      two clusters fall together.

    Raises:
      ValueError: wrong image or `n`.
    """
    _check_image(rgb)
    if rgb.shape[2] != 3 or not 1 <= n <= 256:
        raise ValueError(f"rgb.shape={rgb.shape} and n={n}: a palette needs [H, W, 3] and n in 1..256.")
    colours, counts = _count_colours(rgb)
    if len(colours) > n:
        reduced = Image.fromarray(np.ascontiguousarray(rgb)).quantize(n, Image.Quantize.MEDIANCUT, kmeans=1)
        colours, counts = _count_colours(np.asarray(reduced.convert("RGB")))
    return colours[np.argsort(-counts, kind="stable")]


def palettes(rgb: np.ndarray, longest: int = 64) -> list[np.ndarray]:
    """The 1 … 7 dominant colours of uint8[H, W, 3], a `palette` each, of the image made as small as `longest` pixels:
    that is ten times faster, and colours do not need detail."""
    height, width = rgb.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = apply_crop(rgb, np.asarray([0, 0, height, width, 0]), size)
    return [palette(small, n) for n in range(1, MAX_COLOURS + 1)]


def palette_text(colours: np.ndarray) -> str:
    """uint8[n, 3] -> "v1=n v0=r v0=g v0=b ...", the encoding of 4M-21."""
    colours = np.asarray(colours)
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) == 0:
        raise ValueError(f"colours.shape={colours.shape}: a palette is [n, 3] with n >= 1.")
    if colours.dtype.kind not in "iu" or colours.min() < 0 or colours.max() > 255:
        raise ValueError(f"colours={colours.tolist()!r:.60}: colours are whole numbers of 0..255.")
    return " ".join([f"v1={len(colours)}", *(f"v0={value}" for value in colours.ravel())])


def parse_palette(text: str) -> np.ndarray:
    """The inverse of `palette_text`: "v1=n v0=r v0=g v0=b ..." -> uint8[n, 3].

    Raises:
      ValueError: not of this form, a number of values other than 3n, or a value above 255.
    """
    words = text.split()
    if not re.fullmatch(r"v1=[0-9]+( v0=[0-9]+)+", " ".join(words)):
        raise ValueError(f"{text!r} is not a palette: it must read 'v1=n v0=r v0=g v0=b ...'.")
    count, *values = (int(word[3:]) for word in words)
    if len(values) != 3 * count:
        raise ValueError(f"{text!r} announces {count} colours, which are {3 * count} values, but has {len(values)}.")
    if max(values) > 255:
        raise ValueError(f"{text!r} has the value {max(values)}: colours lie in 0..255.")
    return np.array(values, np.uint8).reshape(count, 3)


def _count_colours(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8[H, W, 3] -> distinct colours uint8[n, 3] and their counts int[n]."""
    red, green, blue = rgb.reshape(-1, 3).T.astype(np.uint32)
    codes, counts = np.unique(red << 16 | green << 8 | blue, return_counts=True)  # 30 times faster than axis=0
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.uint8), counts


def _check_image(image: np.ndarray) -> None:
    if not is_picture(image):
        raise ValueError(f"image is {image.dtype}{list(image.shape)}: it must be uint8[H, W, C] with C 1 or 3.")
