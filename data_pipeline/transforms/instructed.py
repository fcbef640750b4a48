"""What an embedder of pictures and texts is shown of a query, of what it asks for, and of what it does not ask for."""

import dataclasses

from data_pipeline.plain_text import as_text
from data_pipeline.text import FIELDS
from data_pipeline.transforms import base


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """An example {instruction, text, image, text/positive, image/positive, text/negative1, image/negative1, …}, of
    which it may lack any but the query and the positive: a `text` behind the `instruction`, as `template` writes it,
    and beside each of these modalities NAME/positive and as many NAME/negativeN.

    text, image: the fields of the query. negatives: how many are there at the most; those that an example lacks are
    absent, of another modality than its positive they may be.
    """

    text: str = "text"
    image: str = "image"
    instruction: str = "instruction"
    negatives: int = 3
    template: str = "{instruction}\n{text}"

    def __post_init__(self):
        if self.negatives < 0:
            raise ValueError(f"instructed.negatives={self.negatives}: must not be negative; 0 for none")
        if self.text in FIELDS:
            raise ValueError(f"instructed.text={self.text!r}: is written of other fields; name the field of a text")
        if "{instruction}" not in self.template or "{text}" not in self.template:
            raise ValueError(f"instructed.template={self.template!r}: needs {{instruction}} and {{text}}")

    @property
    def variants(self) -> tuple[str, ...]:
        return ("positive", *(f"negative{i + 1}" for i in range(self.negatives)))

    @property
    def reads(self):
        return self.instruction, *self.writes

    @property
    def optional(self):
        return self.reads

    @property
    def writes(self):
        return (self.text, self.image, *(f"{f}/{v}" for v in self.variants for f in (self.text, self.image)))

    def __call__(self, example, rng):
        texts = {f: self._text(f, example) for f in (self.instruction, *self.writes) if not f.startswith(self.image)}
        for kind, end in (("query", ""), ("positive", "/positive")):
            if not texts[self.text + end] and example.get(self.image + end) is None:
                raise ValueError(
                    f"instructed: row {example['row']}: its {kind} is empty: give it {self.text + end!r}, "
                    f"{self.image + end!r} or both"
                )
        asked = texts.pop(self.instruction)
        if asked:
            both = self.template.replace("{instruction}", asked).replace("{text}", texts[self.text] or "")
            texts[self.text] = both.strip()
        return dict.fromkeys(self.writes) | example | texts

    def _text(self, field: str, example: dict) -> str | None:
        try:
            return as_text(example.get(field))
        except ValueError as e:
            raise ValueError(f"instructed: row {example['row']}: {field}: {e}: give it one text") from e
