"""Which tokens of a text name which object, which only objectives read; `shape` is (max_len of the text, objects)."""

import numpy as np

from data_pipeline.kinds import base, vectors


class Kind(vectors.Kind):
    """A field holds {"text": …, "spans": [[(start, end), …] of every object]}: characters of the text, whole words.

    text: what the modality of the text reads; `tokenizer`, its. A batch holds a row a token, end included, of 1 for the
    objects that it names: the token map of MDETR (arXiv 2104.12763, section 2.2). Objects beyond the shape's and tokens
    that are cut are left out. Where ids were stored beforehand the field holds such rows.
    """

    lists, text = ("labels",), True

    def check(self, m, fail):
        base.no_range(m, fail)
        if not m.tokenizer:
            fail("tokenizer", m.tokenizer, "name that of the text, whose tokens these are")

    def read(self, m, example, rng, encode):
        value = example.get(m.field)
        if not isinstance(value, dict):
            return super().read(m, example, rng, encode)
        text, spans = value.get("text"), value.get("spans")
        if not _fits(text, spans):
            raise base.misfit(m, example, '{"text": str, "spans": [[(start, end), …], …]} of characters of the text')
        if encode is None:
            return np.zeros((0, m.width), np.float32)
        ids = encode(text)
        words = len(ids) - len(_common(encode("")[::-1], ids[::-1]))  # what comes before the end
        upto = lambda cut: min(len(_common(encode(text[:cut]), ids)), words)
        rows = np.zeros((len(ids), m.width), np.float32)
        for column, mine in zip(rows.T, spans):
            for start, end in mine:
                column[upto(start) : upto(end)] = 1
        return rows

    def synthetic(self, m, size, rng):
        found = super().synthetic(m, size, rng)
        rows = rng.integers(2, size=(size, *m.shape)) * found["valid"][..., None]
        return found | {"vectors": rows.astype(np.float32)}


def _fits(text, spans) -> bool:
    """Whether all spans are of characters that the text has."""
    try:
        return isinstance(text, str) and all(0 <= a < b <= len(text) for mine in spans for a, b in mine)
    except (TypeError, ValueError):
        return False


def _common(a, b) -> list:
    """The beginning that two lists share."""
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:n]
