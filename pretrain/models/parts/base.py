"""What a part is, and what the parts of one network share."""

import dataclasses
from typing import ClassVar, Protocol

import jax.numpy as jnp
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.models.passes import Asked

STREAM, VECTOR, EMBEDDING, SCORES, CODES = "stream", "vector", "embedding", "scores", "codes"


@dataclasses.dataclass(frozen=True)
class Numerics:
    """dtype: of the matmul operands, and of what flows inside of stacks; attention: what computes it
    (`ops.fused_attention`); remat, unroll: of stacks."""

    dtype: str = "float32"
    attention: str = "xla"
    remat: str = "none"
    unroll: int | bool = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings that all parts have.

    reads: what it reads, in the order of its arguments: other parts, or, of an embedding, modalities; last those parts
      that depend on no example (`constant`).
    frozen: it keeps the values that it is loaded with, as under a rule of `config.train` with how="nothing".
    numerics: its own; None for the network's.
    """

    reads: tuple[str, ...]
    frozen: bool = dataclasses.field(default=False, kw_only=True)
    numerics: Numerics | None = dataclasses.field(default=None, kw_only=True)

    # What it writes: a Stream, a vector `[B, D]`, an embedding of unit length, scores or codes.
    gives: ClassVar[str] = STREAM
    dim: ClassVar[int] = 0  # width of what it writes, where a field does not say it
    depth: ClassVar[int] = 0  # its blocks
    queries: ClassVar[int] = 0  # of a stream: the learned queries that it is of, the same of every example
    joint: ClassVar[bool] = False  # of an embedding: whether it takes several modalities side by side
    pads: ClassVar[bool] = False  # of an embedding: whether the padding of a text is seen as tokens are
    fills: ClassVar[bool] = False  # whether it makes up for what an example lacks: any of what it reads is enough
    appends: ClassVar[tuple[int, ...]] = ()  # of a stream: the ids of tokens that it puts behind those of a text
    masks: ClassVar[bool] = False  # of an embedding: whether it has a token for what is masked
    edited: ClassVar[bool] = False  # whether an evaluation may change what happens inside of it (`models.edits`)
    watches: ClassVar[bool] = False  # of a stream: whether it says what its first token looks at (`watched_encoder`)
    constant: ClassVar[bool] = False  # whether it depends on no example, as learned prompts do
    at_end: ClassVar[bool] = False  # of a vector: whether a text must have its end token where it is pooled

    def serves(self, modality: str) -> bool:
        """Whether it has what it takes for one of the modalities that reach it."""
        return True

    def make(self, build: "Build", rngs: nnx.Rngs) -> nnx.Module:
        """The part, its parameters with their roles. ValueError for settings that do not fit the modalities."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Build:
    """What the parts of a network are built from, beside their own settings.

    name: of the part; parts: {name: Config} of all; modalities: the run's.
    """

    name: str
    parts: dict[str, Config]
    modalities: tuple[Modality, ...]
    numerics: Numerics

    @property
    def dtype(self):
        return jnp.dtype(self.numerics.dtype)

    @property
    def run(self) -> tuple:
        """How stacks run, as items of a dict."""
        n = self.numerics
        return ("dtype", self.dtype), ("remat", n.remat), ("unroll", n.unroll)

    def width(self, part: str) -> int:
        """Width of what another part writes."""
        return self.parts[part].dim

    def spec(self, modality: str) -> Modality:
        found = {m.name: m for m in self.modalities}
        if modality not in found:
            self.fail("reads", modality, f"no such modality; the run has {', '.join(found)}")
        return found[modality]

    def begins(self, part: str) -> tuple[str, ...]:
        """The modalities that are read at the beginning of a part."""
        below = [name for name in self.parts[part].reads if name in self.parts]
        return tuple(m for name in below for m in self.begins(name)) or self.parts[part].reads

    def fail(self, key, value, remedy):
        raise ValueError(f"model.parts: {self.name!r}: {key}={value!r}: {remedy}")


class Part(Protocol):
    """A module; its arguments are what the parts that it reads have written, and its options are static."""

    def __call__(self, *args, asked: Asked, **options): ...
