"""BERT's pooling: the first token through a layer of its own."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the stream, whose first token is a class token. dim: of the vector."""

    dim: int = 768

    gives = base.VECTOR

    def make(self, build, rngs):
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Stream `[B, N, D]` → tanh(W x_0 + b), `[B, dim]` (BERT, arXiv 1810.04805: `pooler` of its release)."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        self.linear = Linear(build.width(config.reads[0]), config.dim, bias=True, dtype=build.dtype, rngs=rngs)

    def __call__(self, stream: Stream, asked: Asked):
        return jnp.tanh(self.linear(stream.x[:, 0]))
