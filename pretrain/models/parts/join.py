"""Streams side by side, for an encoder that reads them as one: early fusion."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import LayerNorm, Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.ops.positions import WAVES, sincos_2d


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: what gives the streams, two or more, of any widths. dim: of what it writes. waves: of the positions
    (`ops.positions`).
    """

    dim: int = 256
    waves: tuple[float, float] = WAVES
    eps: float = 1e-6

    def make(self, build, rngs):
        if len(self.reads) < 2:
            build.fail("reads", self.reads, "name two parts or more; an encoder reads one by itself")
        for name in self.reads:
            if name not in build.parts or build.parts[name].gives != base.STREAM:
                build.fail("reads", name, "it gives no stream; name an embedding or an encoder")
        if self.dim % 4:
            build.fail("dim", self.dim, "must be divisible by 4, for the position tables")
        if not 0 < self.waves[0] < self.waves[1]:
            build.fail("waves", self.waves, "needs 0 < shortest < longest wave")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """(Stream `[B, N_i, D_i]`, …) → Stream `[B, Σ N_i, dim]`: norm_i(W_i x), and of tokens on a grid the sine-cosine
    position of their place, which is `placed` too (MDETR, arXiv 2104.12763, section 2.2)."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.grids = tuple(m.grid for m in build.modalities)
        make = lambda name: Linear(build.width(name), c.dim, bias=True, dtype=build.dtype, rngs=rngs)
        self.linear = nnx.Dict({name: make(name) for name in c.reads})
        self.norm = nnx.Dict({name: LayerNorm(c.dim, bias=True, eps=c.eps) for name in c.reads})

    def __call__(self, *streams: Stream, asked: Asked) -> Stream:
        named = zip(self.config.reads, streams)
        x = jnp.concatenate([self.norm[name](self.linear[name](s.x)) for name, s in named], axis=1)
        side = lambda field: jnp.concatenate([getattr(s, field) for s in streams], axis=1)
        valid, modality, position = side("valid"), side("modality"), side("position")
        placed = self._places(modality, position) * valid[..., None]
        return Stream(x + placed, valid, modality, position, placed)

    def _places(self, modality, position):
        """`[B, N, dim]`; zeros off grids."""
        tables, starts = [jnp.zeros((1, self.config.dim))], []
        for grid in self.grids:
            starts.append(sum(map(len, tables)) if grid else 0)
            tables += [sincos_2d(*grid, self.config.dim, self.config.waves)] if grid else []
        start = jnp.where(modality < 0, 0, jnp.asarray(starts)[modality])
        return jnp.concatenate(tables)[jnp.where(start > 0, start + position, 0)]
