"""Pseudo-labels: functions from a picture to a field. Palette, edges, metadata as of 4M-21, and ONNX models by path."""

import dataclasses
import hashlib
import re
import urllib.parse

import cv2
import fsspec
import numpy as np
from PIL import Image

from data_pipeline.image import BICUBIC, as_channels, edges
from data_pipeline.image import palettes as image_palettes

KINDS = ("map8", "map16", "classes", "features")
_CHOICES = "palettes, edges, metadata, or onnx:PATH"


def palettes(image: np.ndarray) -> list[list[list[int]]]:
    """`image.palettes` for JSON."""
    return [colours.tolist() for colours in image_palettes(image)]


def metadata(image: np.ndarray, caption: str | None = None) -> dict:
    """Those types of `structured.METADATA` that picture and caption alone decide (4M-21, arXiv 2406.09406, gives their
    names and its code their ranges, not their formulas: these are of those ranges).

    With R, G, B of 0 … 255 and luma Y = 0.299 R + 0.587 G + 0.114 B (Rec. 601) of every pixel:
      colorfulness: sqrt(σ²_rg + σ²_yb) + 0.3 sqrt(μ²_rg + μ²_yb) of rg = R - G and yb = (R + G) / 2 - B (D. Hasler and
        S. Süsstrunk, Measuring colorfulness in natural images, 2003, section 4)
      brightness: the mean of Y; contrast: its standard deviation
      saturation: the mean of 255 (max - min) / max of R, G, B, the S of HSV
      entropy: -Σ p log2 p over the 256 shades of Y, rounded, in bits
      original_width, original_height: in pixels
      caption_n_chars, caption_n_words (parted by white space), caption_n_sentences (parts that hold a letter or digit
        and end with . ! ? 。 or the text): if there is a caption

    Args:
      image: uint8[H, W, 3], before it is resized.
    """
    r, g, b = np.moveaxis(image.astype(np.float64), -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    rg, yb = r - g, (r + g) / 2 - b
    value = image.max(-1).astype(np.float64)
    share = np.bincount(np.rint(luma).astype(int).ravel()) / luma.size
    share = share[share > 0]
    found = {
        "original_width": image.shape[1], "original_height": image.shape[0],
        "colorfulness": np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()),
        "brightness": luma.mean(), "contrast": luma.std(),
        "saturation": (255 * (value - image.min(-1)) / np.maximum(value, 1)).mean(),
        "entropy": abs(share @ np.log2(share)),
    }  # fmt: skip
    if caption is not None:
        found["caption_n_chars"], found["caption_n_words"] = len(caption), len(caption.split())
        found["caption_n_sentences"] = sum(bool(re.search(r"\w", s)) for s in re.split(r"[.!?。]+(?=\s|$)|。", caption))
    return {name: value if isinstance(value, int) else round(float(value), 4) for name, value in found.items()}


@dataclasses.dataclass(frozen=True)
class Onnx:
    """A network given by path, that sees a picture and tells a map or features. Call it: uint8[H, W, 3] → array.

    It is written `onnx:PATH?size=384&mean=0.5,0.5,0.5`. What is not said there is read from the model's metadata
    (`metadata_props`) under the same names:
      size: the side, or HEIGHT,WIDTH, to which pictures are resized (bicubic); without it that of the input's shape
      mean, std: of 1 or 3 channels; the input is (pixel / 255 - mean) / std in RGB. Must be said: a wrong guess would
        go unnoticed
      layout: NCHW or NHWC; without it that of the input's shape
      kind: what its first output, or the one named `output`, is:
        map8, map16: numbers [1, 1, H, W], [1, H, W] or [1, H, W, 1] → uint8 or uint16[H, W, 1], from `low` at 0 to
          `high` at the top; without these from the least to the greatest of the picture (relative depth)
        classes: scores [1, C, H, W], or [1, H, W, C] of NHWC → uint8[H, W, 1], the class of the highest
        features: anything [1, …] → float32[…]
      provider: of onnxruntime; CPUExecutionProvider
    A map is resized to the size of the picture (of classes: nearest neighbour).
    """

    path: str
    options: dict

    def open(self):
        """This network, ready to be called. ImportError without onnxruntime, ValueError for options that do not fit."""
        return _Session(self)

    def read(self) -> bytes:
        with fsspec.open(self.path, "rb") as file:
            return file.read()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.read()).hexdigest()[:12]


class _Session:
    """An `Onnx` whose model is loaded. It stays in its process; the `Onnx` travels."""

    def __init__(self, onnx: Onnx):
        try:
            import onnxruntime
        except ImportError as e:
            raise ImportError(f"onnx:{onnx.path} needs onnxruntime: pip install 'tokenloom[onnx]'") from e
        threads = onnxruntime.SessionOptions()
        threads.intra_op_num_threads = 1  # the pipeline's workers are parallel; and sums keep their order
        provider = onnx.options.get("provider", "CPUExecutionProvider")
        # A path, not bytes, where it can be: large models keep their weights in files beside them.
        model = onnx.path if "://" not in onnx.path else onnx.read()
        self._session = onnxruntime.InferenceSession(model, threads, providers=[provider])
        self._about = self._session.get_modelmeta().custom_metadata_map | onnx.options
        self._where = f"onnx:{onnx.path}"
        if len(self._session.get_inputs()) != 1:
            names = ", ".join(i.name for i in self._session.get_inputs())
            raise ValueError(f"{self._where}: must have one input, a picture; it has {names}")
        self._input = self._session.get_inputs()[0]
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._output = self._choose("output", self._outputs, self._outputs[0])
        self._kind = self._choose("kind", KINDS)
        self._layout = self._choose("layout", ("NCHW", "NHWC"), self._guess_layout())
        self._size = self._numbers("size", (1, 2), self._guess_size())
        self._mean, self._std = (np.array(self._numbers(name, (1, 3)), np.float32) for name in ("mean", "std"))
        self._range = self._numbers("low", (1,), ()) + self._numbers("high", (1,), ())
        if len(self._range) == 1:
            raise ValueError(f"{self._where}: low and high belong together: say both or neither")

    def _choose(self, name, choices, default=None) -> str:
        value = self._about.get(name, default)
        if value not in choices:
            raise ValueError(
                f"{self._where}: {name}={value!r}: say ?{name}= one of {', '.join(choices)}, there or in the metadata "
                "of the model"
            )
        return value

    def _numbers(self, name, counts, default=None) -> tuple:
        text = self._about.get(name)
        if text is None and default is not None:
            return default
        try:
            values = tuple(float(number) for number in text.split(","))
        except (AttributeError, ValueError):
            values = ()
        if len(values) not in counts:
            many = " or ".join(map(str, counts))
            raise ValueError(f"{self._where}: {name}={text!r}: say ?{name}= {many} numbers, there or in its metadata")
        return values

    def _guess_layout(self):
        shape = self._input.shape
        return "NCHW" if shape[1:2] == [3] else "NHWC" if shape[3:] == [3] else None

    def _guess_size(self):
        sides = self._input.shape[2:] if self._layout == "NCHW" else self._input.shape[1:3]
        return tuple(sides) if all(isinstance(side, int) for side in sides) else None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = (int(side) for side in np.broadcast_to(self._size, 2))
        picture = Image.fromarray(np.ascontiguousarray(as_channels(image, 3))).resize((width, height), BICUBIC)
        x = ((np.asarray(picture, np.float32) / 255 - self._mean) / self._std)[None].astype(np.float32)
        x = x.transpose(0, 3, 1, 2) if self._layout == "NCHW" else x
        (found,) = self._session.run([self._output], {self._input.name: np.ascontiguousarray(x)})
        found = np.asarray(found)[0]
        if self._kind == "features":
            return found.astype(np.float32)
        if self._kind == "classes":
            return self._classes(found, image.shape)
        return self._map(found, image.shape)

    def _map(self, values, shape) -> np.ndarray:
        values = np.squeeze(values).astype(np.float64)
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError(f"{self._where}: its output {list(values.shape)} is no map of finite numbers")
        low, high = self._range or (values.min(), values.max())
        top, dtype = (255, np.uint8) if self._kind == "map8" else (65535, np.uint16)
        values = cv2.resize(values, shape[1::-1], interpolation=cv2.INTER_LINEAR)
        scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
        return np.rint(scaled.clip(0, 1) * top).astype(dtype)[..., None]

    def _classes(self, scores, shape) -> np.ndarray:
        axis = 0 if self._layout == "NCHW" else -1
        if scores.ndim != 3 or scores.shape[axis] > 256:
            raise ValueError(
                f"{self._where}: its output {list(scores.shape)} is no map of scores of at most 256 classes"
            )
        chosen = scores.argmax(axis).astype(np.uint8)
        return cv2.resize(chosen, shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)[..., None]


def parse(text: str) -> Onnx | str:
    """What makes a pseudo-label, from how it is written: palettes, edges, metadata, or onnx:PATH?NAME=VALUE&….

    ValueError for another, FileNotFoundError for a model that is not there.
    """
    if not text.startswith("onnx:"):
        if text not in _BUILT_IN:
            raise ValueError(f"{text!r} makes no pseudo-label: use {_CHOICES}")
        return text
    path, _, query = text.removeprefix("onnx:").partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    known = ("size", "mean", "std", "layout", "kind", "output", "low", "high", "provider")
    for name in options:
        if name not in known:
            raise ValueError(f"onnx:{path}: {name!r} is no option: use {', '.join(known)}")
    filesystem, file = fsspec.core.url_to_fs(path)
    if not filesystem.exists(file):
        raise FileNotFoundError(f"onnx:{path}: no such model")
    return Onnx(path, options)


def open_label(how: Onnx | str):
    """The function that `parse` named: uint8[H, W, 3] → a field (of `metadata` with the caption). A hook of one's own
    is an object that can be pickled, whose `open()` gives such a function."""
    return _BUILT_IN[how] if isinstance(how, str) else how.open()


_BUILT_IN = {"palettes": palettes, "edges": edges, "metadata": metadata}
