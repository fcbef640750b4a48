"""The class of an example, which only objectives read; `shape` is (1,)."""

import numpy as np

from data_pipeline.kinds import base


class Kind(base.Kind):
    """A field holds the name of one of the spec's `classes`, or without them a number of 0 … vocab_size − 1."""

    lists = ("labels",)

    def check(self, m, fail):
        base.no_range(m, fail)
        if m.shape != (1,) or m.vocab_size < 1:
            fail("shape, vocab_size", (m.shape, m.vocab_size), "must be (1,) and the number of classes")
        if m.classes and len(set(m.classes)) != m.vocab_size:
            fail("classes", f"{len(set(m.classes))} names", f"must be vocab_size={m.vocab_size} different ones")

    def read(self, m, example, rng, encode):
        value = example.get(m.field)
        if value is None:
            return None
        found = m.numbers.get(value if isinstance(value, str) else None) if m.classes else value
        if isinstance(found, (int, np.integer)) and not isinstance(found, bool) and 0 <= found < m.vocab_size:
            return [int(found)]
        names = f"one of its classes {', '.join(m.classes[:3])}, …"
        raise ValueError(
            f"labels {m.name!r}: row {example['row']} has {m.field}={value!r}: must be "
            f"{names if m.classes else f'a number of 0…{m.vocab_size - 1}'}; mend the data, or set classes and "
            "vocab_size"
        )
