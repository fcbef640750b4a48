"""Texts that are drawn, a row of pixels each patch; `shape` is (patches, pixels of one). Input only."""

from data_pipeline import text_tokenizers
from data_pipeline.kinds import sequence, vectors
from data_pipeline.text import FIELDS, made_of


class Kind(vectors.Kind):
    """A field holds a text, or what `text.render` writes as one, or rows that were made beforehand."""

    text, written = True, FIELDS

    def check(self, m, fail):
        super().check(m, fail)
        if not m.tokenizer:
            fail("tokenizer", m.tokenizer, "name who draws it, such as `bitmap`")
        if text_tokenizers.known(m.tokenizer):
            drawn = text_tokenizers.patch(m.tokenizer)
            if not drawn:
                fail("tokenizer", m.tokenizer, "makes ids: take kind='sequence', or one that draws, such as `bitmap`")
            if drawn != m.shape[1]:
                fail("shape", m.shape, f"{m.tokenizer!r} draws patches of {drawn} pixels")

    def fields(self, m):
        return m.field, made_of(m.field)

    def read(self, m, example, rng, encode):
        return super().read(m, example, rng, encode) if encode is None else sequence.read(m, example, rng, encode)
