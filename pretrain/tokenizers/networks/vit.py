"""The vision transformers of 4M's tokenizers (arXiv 2312.06647): a grid of patches, fixed positions.

For images and label maps, and with a patch of 1 for maps of features, which come as vectors that lie on a square.
"""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx

from pretrain.models import blocks
from pretrain.models.blocks.base import Block
from pretrain.models.convolution import ConvNeXtBlock
from pretrain.models.layers import LayerNorm, Linear, Mlp
from pretrain.models.stack import make_stack, run_stack
from pretrain.ops.positions import resize, sincos_2d
from pretrain.tokenizers.networks.patches import patchify, unpatchify


@dataclasses.dataclass(frozen=True)
class Config:
    """patch: places that a token covers in each direction, 1 for features.

    post_mlp: one more residual MLP behind the blocks, with tanh, as in ViT-VQGAN (arXiv 2110.04627).
    convs: ConvNeXt blocks on what the decoder gives, which smooth the seams between patches.
    span: (rows, columns) of the grid whose position table it has, if another than its own: the table is resized.
    """

    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    post_mlp: bool = True
    convs: int = 0
    span: tuple[int, ...] = ()

    def __post_init__(self):
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"vit.dim={self.dim}: must be divisible by vit.heads={self.heads} and by 4")
        if self.span and len(self.span) != 2:
            raise ValueError(f"vit.span={self.span}: must be (rows, columns), or () for its own grid")


class PostMlp(nnx.Module):
    """x += fc2(tanh(fc1(norm x))), in fp32 whatever the other layers multiply in: its output is quantized."""

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(c.dim, bias=True)
        self.mlp = Mlp(c.dim, c.mlp_ratio, gated=False, bias=True, activation="tanh", dtype=jnp.float32, rngs=rngs)

    def __call__(self, x):
        return x + self.mlp(self.norm(x))


class Trunk(nnx.Module):
    """Positions, blocks and the last MLP, on tokens `[B, N, dim]` of a grid."""

    def __init__(self, c: Config, grid, *, dtype, rngs: nnx.Rngs):
        block = blocks.Config(c.dim, c.heads, mlp_ratio=c.mlp_ratio, dtype=dtype)
        self.grid, self.span = tuple(grid), c.span or tuple(grid)
        self.blocks = make_stack(lambda rngs: Block(block, blocks.ENCODER, rngs=rngs), c.depth, rngs)
        self.post = PostMlp(c, rngs=rngs) if c.post_mlp else None

    def __call__(self, x):
        positions = sincos_2d(*self.span, x.shape[-1])
        if self.span != self.grid:
            positions = resize(positions, self.span, self.grid)
        x, _ = run_stack(self.blocks, x + jnp.asarray(positions))
        return x if self.post is None else self.post(x)


class Encoder(nnx.Module):
    """A linear layer on patches, then the trunk."""

    def __init__(self, config: Config, shape, *, dtype, rngs: nnx.Rngs):
        c, self.shape = config, as_map(shape)
        height, width, channels = self.shape
        if height % c.patch or width % c.patch:
            raise ValueError(f"vit.patch={c.patch}: must divide the image size {height}×{width}")
        self.patch, self.dim, self.grid = c.patch, c.dim, (height // c.patch, width // c.patch)
        self.proj = Linear(c.patch**2 * channels, c.dim, bias=True, dtype=dtype, rngs=rngs)
        self.trunk = Trunk(c, self.grid, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        """`[B, H, W, C]`, or `[B, N, C]` of a square → `[B, N, dim]`."""
        return self.trunk(self.proj(patchify(x.reshape(-1, *self.shape), self.patch)))


class Decoder(nnx.Module):
    """The trunk, a linear layer that gives patches, and convolutions if there are."""

    def __init__(self, config: Config, grid, shape, *, dtype, rngs: nnx.Rngs):
        c, (height, width, channels) = config, as_map(shape)
        if (grid[0] * c.patch, grid[1] * c.patch) != (height, width):
            raise ValueError(f"vit.patch={c.patch}: {grid[0]}×{grid[1]} of them do not make {height}×{width}")
        self.patch, self.dim, self.grid, self.shape = c.patch, c.dim, tuple(grid), tuple(shape)
        self.trunk = Trunk(c, grid, dtype=dtype, rngs=rngs)
        self.proj = Linear(c.dim, c.patch**2 * channels, bias=True, dtype=dtype, rngs=rngs)
        self.convs = make_stack(lambda rngs: ConvNeXtBlock(channels, dtype=dtype, rngs=rngs), c.convs, rngs)

    def __call__(self, x):
        """`[B, N, dim]` → `[B, H, W, C]`, or `[B, N, C]` of a square."""
        x = unpatchify(self.proj(self.trunk(x)), self.patch, self.grid)
        return run_stack(self.convs, x)[0].reshape(-1, *self.shape)


def as_map(shape) -> tuple[int, int, int]:
    """(height, width, channels) of an image, or of vectors that lie on a square."""
    if len(shape) == 3:
        return tuple(shape)
    if len(shape) == 4:
        raise ValueError(f"a vit needs images, not clips of shape {tuple(shape)}; `causal3d` reads them")
    side = math.isqrt(shape[0])
    if side**2 != shape[0]:
        raise ValueError(f"a vit needs images, or a square number of vectors, not {shape[0]}; `mlp` reads any")
    return side, side, shape[1]
