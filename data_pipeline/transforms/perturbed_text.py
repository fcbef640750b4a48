"""A text as it might be mistyped, or with its words in another order, beside itself: it says the same."""

import dataclasses

import numpy as np

from data_pipeline.text import FIELDS, list_texts
from data_pipeline.transforms import base

HOW = ("typos", "order", "both")
EDITS = ("swap", "drop", "double", "replace")
LETTERS = list("abcdefghijklmnopqrstuvwxyz")


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """Writes the text of `field` into the field `into`, perturbed by one of `how`, drawn evenly (after Pixel-Linguist,
    arXiv 2402.08183): `typos`, each word with probability `rate` by one of `edits`, `order`, its words in another
    order, or `both`.

    edits: two letters beside each other are swapped, one is dropped, doubled, or replaced by another.
    Of several texts one is drawn, and written into `field`, so that both are of the same.
    """

    field: str
    into: str
    how: tuple[str, ...] = HOW
    rate: float = 0.3
    edits: tuple[str, ...] = EDITS

    def __post_init__(self):
        where = "perturbed_text"
        if self.field in FIELDS:
            raise ValueError(
                f"{where}.field={self.field!r}: is written of other fields; write it into one by text_variants"
            )
        if self.into == self.field or self.into in FIELDS or "/" in self.into or not self.into:
            raise ValueError(f"{where}.into={self.into!r}: give it a name that nothing else has")
        for key, allowed in (("how", HOW), ("edits", EDITS)):
            if not (value := getattr(self, key)) or not set(value) <= set(allowed):
                raise ValueError(f"{where}.{key}={value!r}: name one or more of {', '.join(allowed)}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"{where}.rate={self.rate}: must be above 0 and at most 1, a probability")

    @property
    def reads(self):
        return (self.field,)

    @property
    def writes(self):
        return self.field, self.into

    def __call__(self, example, rng):
        try:
            texts = list_texts(self.field, example.get(self.field))
        except ValueError as e:
            raise ValueError(f"perturbed_text: row {example['row']}: {e}") from e
        text = texts[0 if rng is None else rng.integers(len(texts))] if texts else None
        rng = np.random.default_rng(0) if rng is None else rng
        return example | {self.field: text, self.into: text and self.perturb(text, rng)}

    def perturb(self, text: str, rng: np.random.Generator) -> str:
        """The text, perturbed; of one short word it may be the text itself."""
        how, words = self.how[rng.integers(len(self.how))], text.split()
        if how != "order":
            words = [mistype(w, self.edits[rng.integers(len(self.edits))], rng) if hit else w
                     for w, hit in zip(words, rng.random(len(words)) < self.rate)]  # fmt: skip
        return " ".join(words if how == "typos" else (words[i] for i in rng.permutation(len(words))))


def mistype(word: str, edit: str, rng: np.random.Generator) -> str:
    """A word with one of EDITS; one of a single letter stays as it is."""
    if len(word) < 2:
        return word
    at = int(rng.integers(len(word) - (edit == "swap")))
    now = word[at]
    new = {
        "swap": lambda: word[at + 1] + now,
        "drop": lambda: "",
        "double": lambda: 2 * now,
        "replace": lambda: str(rng.choice([c for c in LETTERS if c != now.lower()])),
    }[edit]()
    return word[:at] + new + word[at + 1 + (edit == "swap") :]
