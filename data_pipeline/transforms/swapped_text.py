"""A text beside itself with two words exchanged: the same words say something else, a negative of the picture."""

import dataclasses
import re

import numpy as np

from data_pipeline.text import FIELDS, list_texts
from data_pipeline.transforms import base

WORD = re.compile(r"\w[\w'’-]*")


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """Adds NAME/swapped for every modality NAME that is made from `field`, absent where no two words differ.

    After Structure-CLIP (arXiv 2305.06152), which exchanges words by a scene graph; here any two that differ are. Of
    several texts one is drawn, so that both entries are of the same.
    """

    field: str

    def __post_init__(self):
        if self.field in FIELDS:
            raise ValueError(
                f"swapped_text.field={self.field!r}: is written of other fields; write it into one by text_variants"
            )

    @property
    def reads(self):
        return (self.field,)

    @property
    def writes(self):
        return self.field, f"{self.field}/swapped"

    def __call__(self, example, rng):
        try:
            texts = list_texts(self.field, example.get(self.field))
        except ValueError as e:
            raise ValueError(f"swapped_text: row {example['row']}: {e}") from e
        text = texts[0 if rng is None else rng.integers(len(texts))] if texts else None
        rng = np.random.default_rng(0) if rng is None else rng
        return example | {self.field: text, f"{self.field}/swapped": text and swap(text, rng)}


def swap(text: str, rng: np.random.Generator) -> str | None:
    """The text with two of its words, which differ, in each other's place; None if there are no such two."""
    words = list(WORD.finditer(text))
    pairs = [(a, b) for i, a in enumerate(words) for b in words[i + 1 :] if a[0].casefold() != b[0].casefold()]
    if not pairs:
        return None
    a, b = pairs[rng.integers(len(pairs))]
    return text[: a.start()] + b[0] + text[a.end() : b.start()] + a[0] + text[b.end() :]
