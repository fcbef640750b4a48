"""One token of a stream as the vector of its example."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the stream. at: which slot, from the end where it is negative. dim: of the vector."""

    at: int = -1
    dim: int = 768

    gives = base.VECTOR

    def make(self, build, rngs):
        if build.width(self.reads[0]) != self.dim:
            build.fail("dim", self.dim, f"{self.reads[0]!r} gives tokens of width {build.width(self.reads[0])}")
        return Part(self.at)


class Part(nnx.Module):
    """Stream `[B, N, D]` → `[B, D]`; zeros where the slot is empty. It has no parameters."""

    def __init__(self, at: int):
        self.at = at

    def __call__(self, stream: Stream, asked: Asked):
        return jnp.where(stream.valid[:, self.at, None], stream.x[:, self.at], 0.0)
