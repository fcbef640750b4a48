"""One of the texts that an example has in several fields, or several texts of a field joined, as one field."""

import dataclasses

from data_pipeline.text import FIELDS, list_texts, made_of, render
from data_pipeline.transforms import base


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """Draws one of those of `of` that an example has, evenly (as OpenShape does, arXiv 2305.10764), then its text.

    field: the one that it writes, which a modality names.
    of: fields as a modality of texts names them, what `text.render` writes included.
    join: the least and the most texts of a list that are drawn and joined, in their order.
    In evaluation it is the first of them that an example has, with the first `most` of its texts.
    """

    field: str
    of: tuple[str, ...]
    join: tuple[int, int] = (1, 1)

    def __post_init__(self):
        if self.field in FIELDS or "/" in self.field or not self.of:
            raise ValueError(
                f"text_variants.field={self.field!r}, of={self.of}: give it a name that nothing else has, and fields "
                "that its text is drawn from"
            )
        if not 1 <= self.join[0] <= self.join[1]:
            raise ValueError(f"text_variants.join={self.join}: must be (least, most), both at least 1")

    @property
    def reads(self):
        return tuple(made_of(field) for field in self.of)

    @property
    def writes(self):
        return (self.field,)

    def __call__(self, example, rng):
        try:
            there = [f for f in self.of if f in FIELDS or list_texts(f, example.get(f))]
            for field in there if rng is None else rng.permutation(there).tolist():
                if text := self._text(field, example, rng):
                    return example | {self.field: text}
        except ValueError as e:
            raise ValueError(f"text_variants of {self.field!r}: row {example['row']}: {e}") from e
        return example | {self.field: None}

    def _text(self, field: str, example: dict, rng) -> str | None:
        if field in FIELDS:
            return render(field, example, rng)
        texts, (least, most) = list_texts(field, example[field]), self.join
        if rng is None:
            return " ".join(texts[:most])
        count = min(int(rng.integers(least, most + 1)), len(texts))
        return " ".join(texts[i] for i in sorted(rng.choice(len(texts), count, replace=False)))
