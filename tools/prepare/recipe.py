"""What is done to one example: its texts are cleaned, it is judged, compared, resized, labelled and encoded."""

import dataclasses
import io
import json

import numpy as np
from PIL import Image

from data_pipeline import duplicates
from data_pipeline.clean import clean_text
from data_pipeline.image import BICUBIC, NEAREST, as_channels
from data_pipeline.mixture import pick
from data_pipeline.plain_text import as_text
from data_pipeline.pseudo_labels import Onnx, open_label
from data_pipeline.stored import Picture, as_picture, gathered, is_picture, numbers

FORMATS = ("jpg", "png", "webp")


class Unfit(Exception):
    """An example that is left out. step: of the report; reason: of dropped.jsonl."""

    def __init__(self, step: str, reason: str):
        super().__init__(step, reason)
        self.step, self.reason = step, reason


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is done to an example; see the flags of `tools.prepare`. It travels to the workers.

    exact, near: fields whose duplicates are sought; labels: (field, `pseudo_labels.parse` of how it is made).
    """

    image: str
    texts: tuple[str, ...]
    min_size: int
    max_aspect: float
    min_chars: int
    max_chars: int
    exact: tuple[str, ...]
    near: tuple[str, ...]
    bits: int
    levels: float
    similarity: float
    resize: int
    maps: tuple[str, ...]
    format: str
    quality: int
    labels: tuple[tuple[str, Onnx | str], ...]

    def read(self, source, row: int) -> tuple[dict, int]:
        """(an example with its texts cleaned, how many of its texts were taken out). Unfit if it is not to be kept."""
        try:
            # A caption is one although it looks like the name of a file.
            example = pick(source, row, getattr(source, "fields", ()), self.texts)
            del example["row"]
            example = {field: self._numbers(field, value) for field, value in example.items()}
        except Exception as e:  # whatever is wrong with one example is no reason to stop for the others
            raise Unfit("unreadable", f"{type(e).__name__}: {e}") from e
        removed = 0
        for field in self.texts:
            if not absent(example.get(field)):
                example[field], gone = self._clean(example[field], field)
                removed += gone
        if example.get(self.image) is not None:
            self._judge(example[self.image])
        return example, removed

    def _numbers(self, field, value):
        """What is kept of an image: of maps what is stored, of the picture how it looks, of others all 16 bits."""
        value = gathered(value)
        if not isinstance(value, np.ndarray):
            return value
        if field in self.maps:
            return numbers(value) if isinstance(value, Picture) else value
        if field == self.image:
            return as_picture(value)
        stored = value.stored if isinstance(value, Picture) else None
        return stored if stored is not None and stored.dtype == np.uint16 else np.asarray(value)

    def _clean(self, value, field):
        """A text, or a list or dict of texts, without those of a wrong length; and their number."""
        names = list(value) if isinstance(value, dict) else None
        texts = list(value.values()) if names else value if isinstance(value, list) else [value]
        try:
            cleaned = [clean_text(as_text(text) or "") for text in texts]
        except ValueError as e:
            raise Unfit("unreadable", f"{field}={value!r:.60}: must be a text, or a list or dict of texts") from e
        most = self.max_chars or float("inf")
        fits = [self.min_chars <= len(text) <= most for text in cleaned]
        if not any(fits):
            lengths = ", ".join(str(len(text)) for text in cleaned)
            raise Unfit("text length", f"{field}: {lengths} characters, and {self.min_chars} … {most} are asked for")
        gone = len(fits) - sum(fits)
        if not isinstance(value, list | dict):
            return cleaned[0], gone
        kept = [text for text, fit in zip(cleaned, fits) if fit]
        return kept if names is None else dict(zip([n for n, fit in zip(names, fits) if fit], kept)), gone

    def _judge(self, image):
        if not is_picture(image):
            raise Unfit("unreadable", f"{self.image}={image!r:.60}: must be a picture, uint8[H, W, 1 or 3]")
        least, most = sorted(image.shape[:2])
        if least < self.min_size:
            raise Unfit("too small", f"{self.image}: {least} pixels, and {self.min_size} are asked for")
        if self.max_aspect and most > self.max_aspect * least:
            raise Unfit("aspect", f"{self.image}: {most} : {least}, and at most {self.max_aspect:g} : 1 is asked for")

    def signatures(self, example):
        """(key, signature) of every meeting with duplicates. A key is (`exact`, "", field, bytes), whose signature is
        empty, or (`near`, `image` or `text`, field, bytes)."""
        for field in self.exact:
            if not absent(example.get(field)):
                value = comparable(field, example[field])
                whole = value if isinstance(value, str) else example[field]
                yield ("exact", "", field, duplicates.exact_key(whole)), b""
        for field in self.near:
            if absent(example.get(field)):
                continue
            value = comparable(field, example[field])
            if isinstance(value, str):
                kind, signature = "text", duplicates.text_signature(value)
                keys = duplicates.text_keys(signature)
            else:
                kind, signature = "image", duplicates.image_signature(value)
                keys = duplicates.image_keys(signature, self.bits)
            for key in keys:
                yield ("near", kind, field, key), signature.tobytes()

    def alike(self, kind: str):
        """(the test of two signatures of a kind for `duplicates.earlier`, their dtype)."""
        return {
            "": (None, np.uint8),
            "image": (lambda a, b: duplicates.images_near(a, b, self.bits, self.levels), np.uint8),
            "text": (lambda a, b: duplicates.texts_near(a, b, self.similarity), np.uint32),
        }[kind]

    def open_labels(self) -> list:
        """[(field, function)] for `members`."""
        return [(field, how, open_label(how)) for field, how in self.labels]

    def members(self, example: dict, labels) -> dict[str, bytes]:
        """The files of an example in a tar: {suffix: content}. Unfit if a pseudo-label cannot be made."""
        resized = {k: self._resize(k, v) if is_image(v) else v for k, v in example.items()}
        for field, how, make in labels:
            if example.get(self.image) is None:
                continue
            try:
                if how == "metadata":  # of the picture as it was
                    resized[field] = make(as_channels(example[self.image], 3), self._caption(example))
                else:
                    resized[field] = make(as_channels(resized[self.image], 3))
            except Exception as e:
                raise Unfit("pseudo-label", f"{field}: {type(e).__name__}: {e}") from e
        files, rest = {}, {}
        for field, value in resized.items():
            if isinstance(value, np.ndarray | bytes):
                suffix, content = self._encode(field, value)
                files[suffix] = content
            else:
                rest[field] = value
        return files | {"json": json.dumps(rest, ensure_ascii=False, sort_keys=True, default=_plain).encode()}

    def _caption(self, example) -> str | None:
        """The first text of the first of the text fields."""
        value = example.get(self.texts[0]) if self.texts else None
        texts = value.values() if isinstance(value, dict) else [value] if isinstance(value, str | None) else value
        return next(iter(texts), None)

    def _resize(self, field, image):
        """The shorter side becomes `resize` if it is longer."""
        scale = self.resize / min(image.shape[:2]) if self.resize else 1
        if scale >= 1:
            return image
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        picture = Image.fromarray(np.ascontiguousarray(image if image.shape[2] == 3 else image[..., 0]))
        resized = picture.resize((width, height), NEAREST if field in self.maps else BICUBIC)
        return np.asarray(resized).reshape(height, width, image.shape[2])

    def _encode(self, field, value) -> tuple[str, bytes]:
        """(suffix, content). Of pictures only colours are compressed with loss: one channel may be depth or labels."""
        if field != field.lower() or set(field) & {".", "/"}:
            raise ValueError(
                f"{field!r}: a member of a tar is named in lower case without dot and slash; rename the field"
            )
        if isinstance(value, bytes):
            return f"{field}.bin", value
        out = io.BytesIO()
        if is_image(value):
            lossy = value.shape[2] == 3 and field not in self.maps
            suffix = self.format if lossy else "png"
            picture = Image.fromarray(np.ascontiguousarray(value if value.shape[2] == 3 else value[..., 0]))
            picture.save(
                out, {"jpg": "JPEG"}.get(suffix, suffix), **({} if suffix == "png" else {"quality": self.quality})
            )
        else:
            suffix = "npy"
            np.save(out, value, allow_pickle=False)
        return suffix if field == "image" and suffix != "npy" else f"{field}.{suffix}", out.getvalue()


def absent(value) -> bool:
    """An empty list or dict of texts is none."""
    return value is None or (isinstance(value, list | dict) and not value)


def is_image(value) -> bool:
    """What is written as a picture: uint8[H, W, 1 or 3] or uint16[H, W, 1]."""
    deep = isinstance(value, np.ndarray) and value.dtype == np.uint16 and value.ndim == 3 and value.shape[2] == 1
    return is_picture(value) or (deep and value.size > 0)


def comparable(field: str, value):
    """A picture, or all the texts of a field in one. Unfit if it is something else."""
    texts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if all(isinstance(text, str) for text in texts):
        return "\n".join(texts)
    if not is_image(value):
        raise Unfit("unreadable", f"{field}={value!r:.60}: duplicates are sought of pictures and of texts")
    return as_picture(value)


def _plain(value):
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a tar cannot hold {type(value).__name__} {value!r:.60}")
