"""One of the vectors that an example has in several fields, as one field (OpenShape, arXiv 2305.10764)."""

import dataclasses

import numpy as np

from data_pipeline.transforms import base


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """Draws a field of each group of `of`, then one of those that the example has, evenly, and of it one row.

    field: the one that it writes, which a modality names. of: groups of fields that hold rows of numbers, or one row: a
    text by its name, by one of two captioners or by what was retrieved is [["name"], ["blip", "azure"], ["retrieved"]].
    A group whose drawn field is lacking is left out, though others of it be there. In evaluation it is the first row of
    the first field that is there.
    """

    field: str
    of: tuple[tuple[str, ...], ...]

    def __post_init__(self):
        every = [field for group in self.of for field in group]
        if not self.of or not all(self.of) or len(set(every)) < len(every) or self.field in every or "/" in self.field:
            raise ValueError(
                f"one_row.field={self.field!r}, of={self.of}: give it a name that nothing else has, and groups of "
                "fields, each once"
            )

    @property
    def reads(self):
        return tuple(field for group in self.of for field in group)

    @property
    def writes(self):
        return (self.field,)

    def __call__(self, example, rng):
        drawn = self.reads if rng is None else [group[rng.integers(len(group))] for group in self.of]
        there = [rows for rows in map(example.get, drawn) if rows is not None and len(rows)]
        if not there:
            return example | {self.field: None}
        rows = np.atleast_2d(np.asarray(there[0 if rng is None else rng.integers(len(there))], np.float32))
        return example | {self.field: rows[0 if rng is None else rng.integers(len(rows))]}
