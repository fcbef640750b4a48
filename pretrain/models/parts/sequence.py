"""Streams one behind another, numbered through: what a causal language model reads."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.parameters import param


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the streams where nobody says more, in their order; of several any are enough. An objective may give it
    any others (`objectives.sequences`). dim: of the tokens. length: the most slots of a sequence, of which each has a
    learned position.
    """

    dim: int = 768
    length: int = 2048

    @property
    def fills(self) -> bool:
        """A text without its picture is a sequence, too."""
        return len(self.reads) > 1

    def make(self, build, rngs):
        for name in self.reads:
            if name not in build.parts or build.parts[name].gives != base.STREAM:
                build.fail("reads", name, "it gives no stream; name an embedding or an encoder")
            if build.width(name) != self.dim:
                build.fail("dim", self.dim, f"{name!r} gives tokens of width {build.width(name)}")
        if self.length < 1:
            build.fail("length", self.length, "must be at least 1")
        return Part(self, build.name, rngs)


class Part(nnx.Module):
    """(Stream `[B, N_i, D]`, …) → Stream `[B, Σ N_i, D]` with positions added. Parameters: `positions [length, D]`.

    Positions count valid tokens, as OPT's do (arXiv 2205.01068, its release): empty slots between streams change
    nothing. A stream that holds nothing of an example is left out with the class token before it.
    """

    def __init__(self, config: Config, name: str, rngs: nnx.Rngs):
        self.name = name
        self.positions = param(0.02 * jax.random.normal(rngs.params(), (config.length, config.dim)), resize="linear")

    def __call__(self, *streams: Stream, asked: Asked, given: tuple | None = None) -> Stream:
        """given: which of those that it reads these are, where not all; their order is that of `reads`."""
        join = lambda xs: jnp.concatenate(list(xs), axis=1)
        valid = join(s.valid & s.counted.any(1, keepdims=True) for s in streams)
        table, slots = self.positions[...], valid.shape[1]
        if slots > len(table):
            raise ValueError(f"model.parts: {self.name!r}: length={len(table)}: a sequence has {slots} slots: raise it")
        position = jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
        return Stream(join(s.x for s in streams) + table[position], valid, join(s.modality for s in streams), position)
