"""Inverted-bottleneck MLPs (arXiv 2306.13575), for vectors and poses as in 4M-21 (arXiv 2406.09406)."""

import dataclasses

from flax import nnx

from pretrain.models import blocks
from pretrain.models.blocks.base import Block
from pretrain.models.layers import Linear
from pretrain.models.stack import make_stack, run_stack


@dataclasses.dataclass(frozen=True)
class Config:
    dim: int = 1024
    depth: int = 6
    mlp_ratio: float = 4.0


class Network(nnx.Module):
    """`[B, N, d_in]` → `[B, N, d_out]`."""

    def __init__(self, c: Config, d_in: int, d_out: int, *, dtype, rngs: nnx.Rngs):
        self.linear_in = Linear(d_in, c.dim, bias=True, dtype=dtype, rngs=rngs)
        block = blocks.Config(c.dim, heads=1, mlp_ratio=c.mlp_ratio, eps=1e-5, dtype=dtype)
        self.blocks = make_stack(lambda rngs: Block(block, blocks.MLP, rngs=rngs), c.depth, rngs)
        self.linear_out = Linear(c.dim, d_out, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.linear_out(run_stack(self.blocks, self.linear_in(x))[0])


class Encoder(Network):
    """Vectors `[B, N, C]` → `[B, N, dim]`."""

    def __init__(self, config: Config, shape, *, dtype, rngs: nnx.Rngs):
        super().__init__(config, vectors(shape)[1], config.dim, dtype=dtype, rngs=rngs)
        self.dim, self.grid = config.dim, (1, shape[0])


class Decoder(Network):
    """`[B, N, dim]` → vectors `[B, N, C]`."""

    def __init__(self, config: Config, grid, shape, *, dtype, rngs: nnx.Rngs):
        if grid[0] * grid[1] != vectors(shape)[0]:
            raise ValueError(f"mlp: gives a vector for each token, not {shape[0]} for {grid[0]}×{grid[1]}")
        super().__init__(config, config.dim, shape[1], dtype=dtype, rngs=rngs)
        self.dim = config.dim


def vectors(shape):
    """(N, width); ValueError for images."""
    if len(shape) != 2:
        raise ValueError(f"an mlp needs vectors of shape (N, width), not images of shape {tuple(shape)}")
    return shape
