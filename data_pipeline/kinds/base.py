"""What every kind of modality says of itself. A kind is a file of this folder with a class `Kind`, made once."""

import math

import numpy as np

from data_pipeline.padding import pad_ids


class Kind:
    """A kind whose examples are ids of a vocabulary; others differ in what they override.

    rank: how many sizes a shape has.
    lists: those of a config that may hold it: `modalities`, which the network sees, and `labels`, which objectives do.
    form: what a batch calls its values, beside `valid`.
    dense: it has no ids: the encoder projects it, the decoder never predicts it.
    pictures: it is made of images; a shape ends with height, width and channels.
    fixed_length: an example has all of its tokens or none.
    spans: it is masked by spans, others token by token.
    autoregressive: its tokens are predicted one after another, others in any order.
    text: it is written by a tokenizer of texts, which may be one of the run.
    learned_positions: its tokens have learned positions; others those of a grid or of a row.
    written: the fields that it writes itself, of other fields of an example.
    """

    rank = 1
    lists = ("modalities",)
    form = "ids"
    dense = pictures = fixed_length = spans = autoregressive = text = learned_positions = False
    written: tuple[str, ...] = ()

    def check(self, m, fail):
        """Ends in `fail(key, value, remedy)`, a ValueError, if a spec makes no sense beyond what all kinds share."""
        no_range(m, fail)
        if m.chunk < 1 or (m.chunk > 1 and not self.text):
            fail("chunk", m.chunk, "must be at least 1, and 1 for all but sequences")
        if not m.tokenizer:
            fail("tokenizer", m.tokenizer, "name the tokenizer that makes its ids (`text` for SentencePiece)")
        if not m.vocab or m.vocab_size < 1:
            fail("vocab", (m.vocab, m.vocab_size), "name a vocabulary and give its size")
        if m.code_std < 0 or (m.code_std and not self.fixed_length):
            fail("code_std", m.code_std, "must not be negative, and only a grid or a set has codes")

    def readable(self, m) -> bool:
        """Whether a transformer can read it as it is."""
        return True

    def sentinels(self, m) -> bool:
        """Whether some of its ids stand for masked spans, where it is masked by them."""
        return self.spans

    def length(self, m) -> int:
        """Its tokens at most: those of its grid, or the first size of its shape."""
        grid = self.grid(m)
        return math.prod(grid) if grid else m.shape[0]

    def grid(self, m) -> tuple[int, ...]:
        """(rows, columns) of its tokens; () without a grid."""
        return ()

    def width(self, m) -> int:
        """Numbers in one token that the encoder projects; 0 of ids."""
        return 0

    def dtype(self, m) -> str:
        """The type of its values in a batch: of ids the smallest that holds the vocabulary."""
        return "int16" if m.vocab_size <= 2**15 else "int32"

    def fields(self, m) -> tuple[str, ...]:
        """Fields of an example, any of which may be what it is made from; first the one that its spec names."""
        return (m.field,)

    def read(self, m, example: dict, rng, encode):
        """What an example has of it: ids, rows or a picture, of any number; None if it lacks it.

        example: fields, and its `View`; rng: draws what its texts are to say, None for the form of evaluation;
        encode: text → ids where the run has its tokenizer, else None: the field then holds ids.
        """
        raise NotImplementedError

    def pad(self, m, parts: list, rows) -> dict:
        """What `read` gave of the examples `rows` → {form: `[B, …]`, "valid" `[B, …]`}."""
        return pad_ids(parts, m, rows)

    def rows(self, m, values):
        """Of a dense kind that a transformer reads: a batch's values → what the encoder projects, `[B, L, width]`.

        values: of any library whose arrays compute as NumPy's do, so that it runs inside a jitted step too.
        """
        raise NotImplementedError(f"modality {m.name!r}: a {m.kind} modality has no rows of numbers")

    def synthetic(self, m, size: int, rng) -> dict:
        """`size` random examples as `pad` gives them, for benchmarks and plans."""
        valid = self.lengths(m, size, rng)
        ids = rng.integers(0, m.vocab_size, size=(size, m.length))
        return {"ids": np.where(valid, ids, 0).astype(m.dtype), "valid": valid}

    def lengths(self, m, size: int, rng):
        """Which tokens random examples have, bool `[size, L]`: of any length 10 to 100 % of the greatest."""
        shortest = m.length if self.fixed_length else max(m.length // 10, 1)
        return np.arange(m.length) < rng.integers(shortest, m.length + 1, size)[:, None]


def no_range(m, fail):
    """Only continuous maps have one."""
    if m.range:
        fail("range", m.range, "must be (least, greatest) of a continuous map: pixels without vocab_size")


def misfit(m, example: dict, wanted: str) -> ValueError:
    """A field holds something else than what a modality is made from."""
    field = m.fields[0]
    value = f"{example[field]!r:.60}".replace("\n", " ")
    return ValueError(
        f"modality {m.name!r}: row {example['row']} holds {field}={value}: it must be {wanted}; mend the data, or "
        "name another field"
    )
