"""What stands before each token: what predicts it in a causal language model."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the stream. dim: of its tokens."""

    dim: int = 768

    def make(self, build, rngs):
        if build.width(self.reads[0]) != self.dim:
            build.fail("dim", self.dim, f"{self.reads[0]!r} gives tokens of width {build.width(self.reads[0])}")
        return Part()


class Part(nnx.Module):
    """Stream `[B, N, D]` → Stream whose slot n holds the last valid token before n; not valid where there is none. It
    has no parameters."""

    def __call__(self, stream: Stream, asked: Asked) -> Stream:
        n = stream.valid.shape[1]
        last = jax.lax.cummax(jnp.where(stream.valid, jnp.arange(n), -1), axis=1)
        before = jnp.pad(last, ((0, 0), (1, 0)), constant_values=-1)[:, :n]
        x = jnp.take_along_axis(stream.x, jnp.maximum(before, 0)[..., None], axis=1)
        return stream._replace(x=x, valid=stream.valid & (before >= 0), layers=None)
