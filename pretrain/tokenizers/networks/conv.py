"""Convolutional residual networks, as VQGAN has them (arXiv 2012.09841, table 7), without attention.

Every width after the first halves the picture on the way in and doubles it on the way out.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.convolution import Conv, GroupNorm
from pretrain.tokenizers.networks.patches import image_shape


@dataclasses.dataclass(frozen=True)
class Config:
    """widths: channels at each size of the picture, the whole one first: a token covers 2^(len − 1) pixels in each
    direction. blocks: residual ones at each size; groups: of the normalisation, a divisor of every width."""

    widths: tuple[int, ...] = (32, 64, 96, 128)
    blocks: int = 1
    groups: int = 8

    def __post_init__(self):
        if not self.widths or any(w < 1 or w % self.groups for w in self.widths):
            raise ValueError(f"conv.widths={self.widths}: must be divisible by conv.groups={self.groups}")


class Block(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm x))))). conv, norm: of pictures, or of what else is walked through."""

    def __init__(self, dim: int, groups: int, conv=Conv, norm=GroupNorm, *, dtype, rngs: nnx.Rngs):
        self.norm1, self.norm2 = norm(dim, groups), norm(dim, groups)
        self.conv1, self.conv2 = (conv(dim, dim, dtype=dtype, rngs=rngs) for _ in range(2))
        self.conv2.kernel[...] = jnp.zeros_like(self.conv2.kernel[...])  # every block starts as the identity

    def __call__(self, x):
        x = x.astype(jnp.float32)
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        return x + self.conv2(jax.nn.silu(self.norm2(y)))


def walk(x, sizes, between):
    """x through the blocks of every size; between(i, x): from size i to the next."""
    for i, blocks in enumerate(sizes):
        x = between(i - 1, x) if i else x
        for block in blocks:
            x = block(x)
    return x


class Encoder(nnx.Module):
    """A convolution, then at each size its blocks, with convolutions of stride 2 between; norm."""

    def __init__(self, config: Config, shape, *, dtype, rngs: nnx.Rngs):
        c, (height, width, channels), args = config, image_shape(shape), dict(dtype=dtype, rngs=rngs)
        factor = 2 ** (len(c.widths) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"conv.widths={c.widths}: {len(c.widths)} sizes, each half of the one before, need an image whose "
                f"sides are divisible by {factor}, not {height}×{width}"
            )
        self.dim, self.grid = c.widths[-1], (height // factor, width // factor)
        self.conv_in = Conv(channels, c.widths[0], **args)
        self.blocks = nnx.List([nnx.List([Block(w, c.groups, **args) for _ in range(c.blocks)]) for w in c.widths])
        self.down = nnx.List([Conv(a, b, stride=2, **args) for a, b in itertools.pairwise(c.widths)])
        self.norm = GroupNorm(self.dim, c.groups)

    def __call__(self, images):
        x = walk(self.conv_in(images), self.blocks, lambda i, x: self.down[i](x))
        return self.norm(x).reshape(len(x), -1, self.dim)


class Decoder(nnx.Module):
    """The encoder's mirror: pictures are doubled by repeating pixels, and a convolution follows (distill 2016,
    Odena et al.: no checkerboards)."""

    def __init__(self, config: Config, grid, shape, *, dtype, rngs: nnx.Rngs):
        c, (height, width, channels), args = config, image_shape(shape), dict(dtype=dtype, rngs=rngs)
        factor, widths = 2 ** (len(c.widths) - 1), c.widths[::-1]
        if (grid[0] * factor, grid[1] * factor) != (height, width):
            raise ValueError(
                f"conv.widths={c.widths}: {len(widths)} sizes make {grid[0] * factor}×{grid[1] * factor} of a grid of "
                f"{grid[0]}×{grid[1]}, not {height}×{width}"
            )
        self.dim, self.grid = widths[0], tuple(grid)
        self.blocks = nnx.List([nnx.List([Block(w, c.groups, **args) for _ in range(c.blocks)]) for w in widths])
        self.up = nnx.List([Conv(a, b, **args) for a, b in itertools.pairwise(widths)])
        self.norm = GroupNorm(widths[-1], c.groups)
        self.conv_out = Conv(widths[-1], channels, **args)

    def __call__(self, x):
        x = x.reshape(len(x), *self.grid, self.dim)
        x = walk(x, self.blocks, lambda i, x: self.up[i](x.repeat(2, axis=1).repeat(2, axis=2)))
        return self.conv_out(jax.nn.silu(self.norm(x)))
