"""Tokens made of one vector: what a language model reads of a picture."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import NO_MODALITY, Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the vector, and the stream that it was pooled of. tokens: how many; dim: their width."""

    tokens: int = 4
    dim: int = 768

    def make(self, build, rngs):
        gives = tuple(build.parts[name].gives for name in self.reads if name in build.parts)
        if gives != (base.VECTOR, base.STREAM):
            build.fail("reads", self.reads, "name the part that gives the vector, and the stream that it pools")
        if self.tokens < 1:
            build.fail("tokens", self.tokens, "must be at least 1")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """(`[B, P]`, Stream `[B, M, D]`) → Stream `[B, tokens, dim]`: one linear layer of the vector, cut (GILL, arXiv
    2305.17216, section 3.1). They are of the modality of what was pooled, and valid where there is any."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.linear = Linear(build.width(c.reads[0]), c.tokens * c.dim, bias=True, dtype=build.dtype, rngs=rngs)

    def __call__(self, x, stream: Stream, asked: Asked) -> Stream:
        c, shape = self.config, (len(x), self.config.tokens)
        modality = jnp.where(stream.counted, stream.modality, NO_MODALITY).max(1, keepdims=True)
        valid = stream.counted.any(1, keepdims=True)
        position = jnp.broadcast_to(jnp.arange(c.tokens), shape)
        wide = lambda a: jnp.broadcast_to(a, shape)
        return Stream(self.linear(x).reshape(*shape, c.dim), wide(valid), wide(modality), position)
