"""Modality: the one description that data, model, objectives, generation and export share."""

from __future__ import annotations

import dataclasses
import functools

from data_pipeline import kinds


@dataclasses.dataclass(frozen=True)
class Modality:
    """What one modality is and how it becomes tokens.

    kind: a file of data_pipeline/kinds, which says what `shape` means and all else that differs from kind to kind:
      `grid` and `set` tokens of learned tokenizers, `sequence` texts, `pixels`, `video`, `vectors`, and `labels`, which
      only objectives read.
    field: which field of an example it is made from; `name:en` is field `name` in form `en`.
    vocab_size: also the number of classes of labels and of label maps (`pixels` among a run's labels, 255: no label).
    vocab: modalities of the same vocab share one embedding table, hence one `vocab_size`.
    code_std: above 0 its table starts as an image of its tokenizer's codes, which the token store holds, with this
      standard deviation, so that tokens which look alike start out alike; 0 starts it at random.
    classes: the names of labels, in the order of their ids; () if the field holds the numbers 0 … vocab_size − 1.
    tokenizer: who makes the ids: a learned tokenizer's name, or of a sequence a file of `text_tokenizers` (`text` for
      SentencePiece, `characters`) or the path of a Hugging Face `tokenizer.json` or of a `.model` of
      `tools.train_text_tokenizer`.
    patch: side of the square patches of `pixels`, in pixels.
    resample: how `pixels` are resized: `bicubic`, or `nearest` for label maps, so that no new values appear.
    range: of a continuous map such as depth: the numbers, as they are stored in any depth of pixels, that become 0 and
      the greatest of `pixels`, 255; what lies beyond is the nearer of both. Of three channels, which then are digits to
      the base 256, the greatest is 256³ − 1. () for label maps, whose numbers are kept, and for pictures, of which 16
      bits become 8 over their whole range.
    mean, std: what normalises `pixels` in 0…1, a number a channel.
    trained_grid: (rows, columns) of the grid that a loaded model was trained on, if this one is another; its positions
      are then interpolated. () for the grid's own positions.
    chunk: tokens of a sequence that are masked together, such as a type and its value.
    inputs, targets: whether the encoder may see it, and whether the decoder may predict it.
    fourm: its name in the 4M code base, where it has one.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    field: str
    vocab: str = ""
    vocab_size: int = 0
    code_std: float = 0.0
    classes: tuple[str, ...] = ()
    tokenizer: str = ""
    patch: int = 0
    resample: str = "bicubic"
    range: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    trained_grid: tuple[int, ...] = ()
    chunk: int = 1
    inputs: bool = True
    targets: bool = True
    fourm: str = ""

    def __post_init__(self):
        def fail(key, value, remedy):
            raise ValueError(f"modality {self.name!r}: {key}={value!r}: {remedy}")

        if self.kind not in kinds.names():
            fail("kind", self.kind, f"must be one of {', '.join(kinds.names())}")
        kind = kinds.of(self)
        if len(self.shape) != kind.rank or min(self.shape) < 1:
            fail("shape", self.shape, f"a {self.kind} modality needs {kind.rank} positive sizes")
        if self.trained_grid and (len(self.trained_grid) != 2 or not self.grid):
            fail("trained_grid", self.trained_grid, "must be (rows, columns), and only a grid or pixels has it")
        if self.resample not in ("bicubic", "nearest"):
            fail("resample", self.resample, "must be bicubic, or nearest for label maps")
        kind.check(self, fail)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """{class name: its id} of labels."""
        return {name: i for i, name in enumerate(self.classes)}

    @property
    def length(self) -> int:
        """Tokens at most: L of `ids [B, L]`."""
        return kinds.of(self).length(self)

    @property
    def grid(self) -> tuple[int, ...]:
        """(rows, columns) of the tokens of `grid` and `pixels`; () for the others."""
        return kinds.of(self).grid(self)

    @property
    def width(self) -> int:
        """Numbers in one token of `pixels` or `vectors`: what the encoder projects."""
        return kinds.of(self).width(self)

    @property
    def dtype(self) -> str:
        """The type in which its values travel: the smallest integers that hold the vocabulary, bytes or floats."""
        return kinds.of(self).dtype(self)

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of an example, any of which may be what it is made from; first the one that `field` names."""
        return kinds.of(self).fields(self)

    @property
    def form(self) -> str:
        """What a batch calls its values, beside `valid`: `ids`, `pixels` or `vectors`."""
        return kinds.of(self).form

    def rows(self, values):
        """What a batch holds of a dense modality → `[B, L, width]`, what the encoder projects; NumPy or JAX."""
        return kinds.of(self).rows(self, values)

    @property
    def readable(self) -> bool:
        """Whether a transformer can read it as it is."""
        return kinds.of(self).readable(self)

    @property
    def dense(self) -> bool:
        """Whether it has no ids: the encoder projects it, the decoder never predicts it."""
        return kinds.of(self).dense

    @property
    def pictures(self) -> bool:
        """Whether it is made of images; `shape` then ends with height, width and channels."""
        return kinds.of(self).pictures

    @property
    def fixed_length(self) -> bool:
        """Whether an example has all of its tokens or none."""
        return kinds.of(self).fixed_length

    @property
    def spans(self) -> bool:
        """Whether it is masked by spans, not token by token."""
        return kinds.of(self).spans

    @property
    def sentinels(self) -> bool:
        """Whether some of its ids stand for masked spans."""
        return kinds.of(self).sentinels(self)

    @property
    def autoregressive(self) -> bool:
        """Whether its tokens are predicted one after another, not in any order."""
        return kinds.of(self).autoregressive

    @property
    def text(self) -> bool:
        """Whether a tokenizer of texts writes it."""
        return kinds.of(self).text

    @property
    def learned_positions(self) -> bool:
        """Whether each of its tokens has a learned position; others have those of their grid or row."""
        return kinds.of(self).learned_positions


def check_modalities(modalities) -> tuple[Modality, ...]:
    """Checks what only the whole list can show: unique names, and one size for a shared vocabulary."""
    seen, vocabs = set(), {}
    for m in modalities:
        if m.name in ("row", "source", "step"):
            raise ValueError(f"modality {m.name!r}: batches hold something else under that name; choose another")
        if m.name in seen:
            raise ValueError(f"modalities: the name {m.name!r} occurs twice; give each modality its own name")
        seen.add(m.name)
        ours = (m.vocab_size, m.code_std)
        if m.vocab and vocabs.setdefault(m.vocab, ours) != ours:
            raise ValueError(
                f"modality {m.name!r}: vocab_size, code_std = {ours}, but vocabulary {m.vocab!r} has {vocabs[m.vocab]} "
                "elsewhere; modalities that share a vocabulary share both"
            )
    return tuple(modalities)
