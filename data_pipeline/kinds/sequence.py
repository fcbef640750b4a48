"""Text-like tokens with sentinels, of any length; `shape` is (max_len,), `[EOS]` included."""

import numpy as np

from data_pipeline import text_tokenizers
from data_pipeline.kinds import base
from data_pipeline.text import FIELDS, N_SENTINELS, TextTokenizer, made_of, render

FIRST_WORD = TextTokenizer.sentinel_start + N_SENTINELS  # of a text vocabulary: the first id that is no special token


class Kind(base.Kind):
    """A field holds a text, or what `text.render` writes as one, or ids that were made beforehand."""

    spans = autoregressive = text = True
    written = FIELDS

    def fields(self, m):
        return m.field, made_of(m.field)

    def sentinels(self, m):
        return text_tokenizers.marks_spans(m.tokenizer)

    def read(self, m, example, rng, encode):
        if encode is None:
            ids = example.get(m.field)
            return ids[: m.length] if getattr(ids, "ndim", 0) == 1 else _listed_ids(m, example)
        return read(m, example, rng, encode)

    def synthetic(self, m, size, rng):
        """Words, closed by [EOS]."""
        valid = self.lengths(m, size, rng)
        ids = rng.integers(min(FIRST_WORD, m.vocab_size - 1), m.vocab_size, size=(size, m.length))
        ids[np.arange(size), valid.sum(1) - 1] = TextTokenizer.eos_id
        return {"ids": np.where(valid, ids, 0).astype(m.dtype), "valid": valid}


def read(m, example: dict, rng, encode):
    """What `encode` makes of the text that an example has; None if it has none."""
    try:
        text = render(m.field, example, rng)
    except ValueError as e:
        raise ValueError(f"modality {m.name!r}: row {example['row']}: {e}") from e
    return None if text is None else encode(text)


def _listed_ids(m, example: dict):
    """The ids of a sequence that are no array."""
    ids = example.get(m.field)
    if isinstance(ids, str):
        raise ValueError(
            f"modality {m.name!r}: tokenizer={m.tokenizer!r}, but row {example['row']} holds the text "
            f"{ids[:20]!r}: store its ids, or set tokenizer='text' or the path of a tokenizer.json"
        )
    if not isinstance(ids, list | tuple | None):
        raise base.misfit(m, example, "a list of ids")
    return None if ids is None else ids[: m.length]
