"""Several vectors as one."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import LayerNorm
from pretrain.models.parts import base
from pretrain.models.passes import Asked


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: what gives the vectors. dim: of all together. norm: whether what is joined is normalised."""

    dim: int = 1536
    norm: bool = False
    eps: float = 1e-6

    gives = base.VECTOR

    def make(self, build, rngs):
        for name in self.reads:
            if name not in build.parts or build.parts[name].gives != base.VECTOR:
                build.fail("reads", self.reads, f"{name!r} is no part that gives a vector, such as a `pool`")
        if (given := sum(build.width(name) for name in self.reads)) != self.dim:
            build.fail("dim", self.dim, f"the vectors that it reads have {given} numbers together")
        return Part(self)


class Part(nnx.Module):
    """(`[B, D_i]`, …) → `[B, Σ D_i]`."""

    def __init__(self, config: Config):
        self.norm = LayerNorm(config.dim, bias=True, eps=config.eps) if config.norm else None

    def __call__(self, *vectors, asked: Asked):
        x = jnp.concatenate(vectors, axis=-1)
        return x if self.norm is None else self.norm(x)
