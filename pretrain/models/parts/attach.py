"""A vector as one more token of a stream, for an encoder that reads the two as a pair."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import NO_MODALITY, Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the stream, then the vector. dim: of the tokens, to which a layer of its own brings the vector."""

    dim: int = 768

    def make(self, build, rngs):
        if [build.parts[n].gives for n in self.reads if n in build.parts] != [base.STREAM, base.VECTOR]:
            build.fail("reads", self.reads, "name a part that gives a stream, then one that gives a vector")
        if build.width(self.reads[0]) != self.dim:
            build.fail("dim", self.dim, f"{self.reads[0]!r} gives tokens of width {build.width(self.reads[0])}")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """(Stream `[B, N, D]`, `[B, E]`) → Stream `[B, N + 1, D]`, whose last token stands for no modality."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        self.linear = Linear(build.width(config.reads[1]), config.dim, bias=True, dtype=build.dtype, rngs=rngs)

    def __call__(self, stream: Stream, vector, asked: Asked) -> Stream:
        behind = lambda x, value: jnp.pad(x, ((0, 0), (0, 1)), constant_values=value)
        token = self.linear(vector)[:, None].astype(stream.x.dtype)
        x, valid = jnp.concatenate([stream.x, token], 1), behind(stream.valid, True)
        return Stream(x, valid, behind(stream.modality, NO_MODALITY), behind(stream.position, 0))
