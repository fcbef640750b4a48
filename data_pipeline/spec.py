"""Modality: the one description that data, model, objectives, generation and export share."""

from __future__ import annotations

import dataclasses
import functools
import math

# kind: how many sizes its shape has
KINDS = {"grid": 2, "sequence": 1, "set": 1, "pixels": 3, "video": 4, "vectors": 2, "labels": 1}
SPANS = ("sequence", "vectors")  # what is masked by spans, the others token by token
PICTURES = ("pixels", "video")  # what is made of images; `shape` ends with height, width and channels
DENSE = (*PICTURES, "vectors")  # what has no ids: the encoder projects it, the decoder never predicts it


@dataclasses.dataclass(frozen=True)
class Modality:
    """What one modality is and how it becomes tokens.

    kind:
      `grid`      tokens of a learned tokenizer on a 2-D grid; `shape` is (rows, columns).
      `sequence`  text-like tokens with sentinels; `shape` is (max_len,), `[EOS]` included.
      `set`       always the same few tokens, each with a learned position; `shape` is (tokens,).
      `pixels`    raw images, cut into patches; `shape` is (height, width, channels). Input only for the trunk.
      `video`     clips; `shape` is (frames, height, width, channels). Only tokenizers read them.
      `vectors`   continuous embeddings; `shape` is (max_len, width). Input only.
      `labels`    the class of an example, which only objectives read; `shape` is (1,).
    field: which field of an example it is made from; `name:en` is field `name` in form `en`.
    vocab_size: also the number of classes of labels and of label maps (`pixels` among a run's labels, 255: no label).
    vocab: modalities of the same vocab share one embedding table, hence one `vocab_size`.
    code_std: above 0 its table starts as an image of its tokenizer's codes, which the token store holds, with this
      standard deviation, so that tokens which look alike start out alike; 0 starts it at random.
    classes: the names of labels, in the order of their ids; () if the field holds the numbers 0 … vocab_size − 1.
    tokenizer: who makes the ids: a learned tokenizer's name, `text` for SentencePiece, or of a sequence the path of a
      Hugging Face `tokenizer.json`.
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

        if self.kind not in KINDS:
            fail("kind", self.kind, f"must be one of {', '.join(KINDS)}")
        rank = KINDS[self.kind]
        if len(self.shape) != rank or min(self.shape) < 1:
            fail("shape", self.shape, f"a {self.kind} modality needs {rank} positive sizes")
        if self.trained_grid and (len(self.trained_grid) != 2 or not self.grid):
            fail("trained_grid", self.trained_grid, "must be (rows, columns), and only a grid or pixels has it")
        if self.resample not in ("bicubic", "nearest"):
            fail("resample", self.resample, "must be bicubic, or nearest for label maps")
        if self.kind == "pixels" and (self.vocab_size > 256 or (self.vocab_size and ":" in self.field)):
            fail("vocab_size", self.vocab_size, "at most 256 classes of a map that is read: its pixels are bytes")
        if self.range:
            ascending = len(self.range) == 2 and -math.inf < self.range[0] < self.range[1] < math.inf
            if not ascending or self.kind != "pixels" or self.vocab_size or ":" in self.field:
                fail("range", self.range, "must be (least, greatest) of a continuous map: pixels without vocab_size")
            if self.shape[2] != 1 and (self.shape[2] != 3 or self.resample != "nearest"):
                fail("range", self.range, "needs one channel, or three, its digits, with resample='nearest'")
        if self.kind == "video" and (self.vocab_size or self.patch):
            fail("vocab_size, patch", (self.vocab_size, self.patch), "must be 0: only tokenizers read clips")
        if self.kind in DENSE:
            if self.targets and (self.patch or self.kind == "vectors"):
                fail("targets", True, f"{self.kind} can only be input: set targets=False")
            if self.patch and (self.kind != "pixels" or self.shape[0] % self.patch or self.shape[1] % self.patch):
                fail("patch", self.patch, f"must divide the height and width of pixels of shape {self.shape}")
            for key in ("mean", "std"):
                if self.patch and len(getattr(self, key)) != self.shape[-1]:
                    fail(key, getattr(self, key), f"give one number for each of the {self.shape[-1]} channels")
        elif self.kind == "labels":
            if self.shape != (1,) or self.vocab_size < 1:
                fail("shape, vocab_size", (self.shape, self.vocab_size), "must be (1,) and the number of classes")
            if self.classes and len(set(self.classes)) != self.vocab_size:
                fail(
                    "classes", f"{len(set(self.classes))} names", f"must be vocab_size={self.vocab_size} different ones"
                )
        elif self.chunk < 1 or (self.chunk > 1 and self.kind != "sequence"):
            fail("chunk", self.chunk, "must be at least 1, and 1 for all but sequences")
        else:
            if not self.tokenizer:
                fail("tokenizer", self.tokenizer, "name the tokenizer that makes its ids (`text` for SentencePiece)")
            if not self.vocab or self.vocab_size < 1:
                fail("vocab", (self.vocab, self.vocab_size), "name a vocabulary and give its size")
            if self.code_std < 0 or (self.code_std and self.kind not in ("grid", "set")):
                fail("code_std", self.code_std, "must not be negative, and only a grid or a set has codes")

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """{class name: its id} of labels."""
        return {name: i for i, name in enumerate(self.classes)}

    @property
    def readable(self) -> bool:
        """Whether a transformer can read it as it is."""
        return self.kind != "video" and (self.kind != "pixels" or self.patch > 0)

    @property
    def length(self) -> int:
        """Tokens at most: L of `ids [B, L]`."""
        return math.prod(self.grid) if self.grid else self.shape[0]

    @property
    def grid(self) -> tuple[int, ...]:
        """(rows, columns) of the tokens of `grid` and `pixels`; () for the others."""
        if self.kind == "pixels":
            return tuple(n // max(self.patch, 1) for n in self.shape[:2])
        return self.shape if self.kind == "grid" else ()

    @property
    def width(self) -> int:
        """Numbers in one token of `pixels` or `vectors`: what the encoder projects."""
        return self.patch**2 * self.shape[2] if self.kind == "pixels" else self.shape[1]

    @property
    def dtype(self) -> str:
        """The smallest integer type that holds the vocabulary; token ids travel in it."""
        if self.kind in DENSE:
            return "uint8" if self.kind in PICTURES else "float32"
        return "int16" if self.vocab_size <= 2**15 else "int32"


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
        if m.kind not in (*DENSE, "labels") and vocabs.setdefault(m.vocab, ours) != ours:
            raise ValueError(
                f"modality {m.name!r}: vocab_size, code_std = {ours}, but vocabulary {m.vocab!r} has {vocabs[m.vocab]} "
                "elsewhere; modalities that share a vocabulary share both"
            )
    return tuple(modalities)
