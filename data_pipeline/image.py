"""Image transforms that stay aligned over modalities: crops, and the edges and colour palettes drawn from pixels."""

import math
import re

import cv2
import numpy as np
from PIL import Image

BICUBIC = Image.Resampling.BICUBIC
NEAREST = Image.Resampling.NEAREST


def crop_settings(
    rng: np.random.Generator,
    count: int,
    size: int | tuple[int, int],
    *,
    min_scale: float = 0.8,
    flip_prob: float = 0.0,
) -> np.ndarray:
    """Draws square crops that every modality of an example shares, in the layout of 4M's `crop_settings.npy`.

    Args:
      rng: source of the random crops.
      count: number of crops, >= 1.
      size: pixels of the uncropped image, a side or (height, width).
      min_scale: least share of the area of the largest square that a random crop keeps, in (0, 1].
      flip_prob: probability that a random crop is mirrored.

    Returns:
      int64[count, 5] of (top, left, height, width, flip). Row 0 is the largest square at the centre, not mirrored:
      for a square image all of it. The others are random.

    Raises:
      ValueError: an argument out of its range.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1: row 0 is always the centre crop.")
    if not 0 < min_scale <= 1:
        raise ValueError(f"min_scale={min_scale} must be in (0, 1], a share of the area.")
    if not 0 <= flip_prob <= 1:
        raise ValueError(f"flip_prob={flip_prob} must be in [0, 1].")
    height, width = (int(side) for side in np.broadcast_to(size, 2))
    largest = min(height, width)
    settings = np.empty((count, 5), np.int64)
    settings[0] = (height - largest) // 2, (width - largest) // 2, largest, largest, 0
    for row in settings[1:]:
        side = max(1, round(largest * math.sqrt(rng.uniform(min_scale, 1))))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        row[:] = top, left, side, side, rng.random() < flip_prob
    return settings


def apply_crop(image: np.ndarray, setting: np.ndarray, size: int, resample: Image.Resampling = BICUBIC) -> np.ndarray:
    """Crops, resizes and perhaps mirrors an image.

    Args:
      image: uint8[H, W, C] with C 1 or 3.
      setting: (top, left, height, width, flip) in pixels of `image`, a row of `crop_settings`.
      size: pixels of the result's side.
      resample: BICUBIC for colour and grey; NEAREST for masks and labels, so that no new values appear.

    Returns:
      uint8[size, size, C].

    Raises:
      ValueError: wrong image, or a crop that leaves it.
    """
    _check_image(image)
    top, left, height, width, flip = (int(x) for x in setting)
    if min(top, left) < 0 or min(height, width) < 1 or top + height > image.shape[0] or left + width > image.shape[1]:
        raise ValueError(
            f"setting={setting} (top, left, height, width, flip) leaves an image of {image.shape[:2]} (H, W): "
            "draw crop_settings with the size of this image."
        )
    channels = image.shape[2]
    crop = np.ascontiguousarray(image[top : top + height, left : left + width])
    crop = Image.fromarray(crop if channels == 3 else crop[..., 0]).resize((size, size), resample)
    crop = np.asarray(crop).reshape(size, size, channels)
    return np.ascontiguousarray(crop[:, ::-1] if flip else crop)


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


def palette_text(colours: np.ndarray) -> str:
    """uint8[n, 3] -> "v1=n v0=r v0=g v0=b ...", the encoding of 4M-21."""
    colours = np.asarray(colours)
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) == 0:
        raise ValueError(f"colours.shape={colours.shape}: a palette is [n, 3] with n >= 1.")
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
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"image is {image.dtype}{list(image.shape)}: it must be uint8[H, W, C] with C 1 or 3.")
