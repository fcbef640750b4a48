"""Patches, each through residual MLPs of its own, then ViT blocks that look around.

An encoder without blocks is local: a token says what is in its own patch. Without MLPs too it is linear, and what is
near in the picture is near in its output. A decoder needs some, to join the patches; where what it paints of each
overlaps, their edges do not show.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models import blocks
from pretrain.models.blocks.base import Block
from pretrain.models.layers import LayerNorm, Linear
from pretrain.models.stack import make_stack, run_stack
from pretrain.ops.positions import sincos_2d

# So that blocks start out seeing contents rather than positions.
POSITION_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
    """patch: pixels a token covers in each direction; mlps, blocks: how many there are of each.

    overlap: pixels beyond its patch, on every side, to which a decoder's token adds.
    """

    patch: int = 8
    overlap: int = 0
    dim: int = 128
    mlps: int = 2
    blocks: int = 0
    heads: int = 2
    mlp_ratio: float = 2.0

    def __post_init__(self):
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"patches.dim={self.dim}: must be divisible by patches.heads={self.heads} and by 4")
        if not 0 <= self.overlap <= self.patch:
            raise ValueError(f"patches.overlap={self.overlap}: must be from 0 to patches.patch={self.patch}")


class Trunk(nnx.Module):
    """MLPs and blocks on `[B, N, D]`, and a norm behind them."""

    def __init__(self, c: Config, *, dtype, rngs: nnx.Rngs):
        block = blocks.Config(c.dim, c.heads, mlp_ratio=c.mlp_ratio, dtype=dtype)
        self.mlps = make_stack(lambda rngs: Block(block, blocks.MLP, rngs=rngs), c.mlps, rngs)
        self.blocks = make_stack(lambda rngs: Block(block, blocks.ENCODER, rngs=rngs), c.blocks, rngs)
        self.norm = LayerNorm(c.dim, bias=True) if c.mlps or c.blocks else None

    def __call__(self, x, grid):
        if self.norm is None:
            return x
        x, _ = run_stack(self.mlps, x, unroll=True)
        if self.blocks is not None:
            positions = jnp.asarray(sincos_2d(*grid, x.shape[-1]))
            x, _ = run_stack(self.blocks, x + POSITION_SCALE * positions, unroll=True)
        return self.norm(x)


class Encoder(nnx.Module):
    """Linear on patches, then the trunk."""

    def __init__(self, config: Config, shape, *, dtype, rngs: nnx.Rngs):
        c, (height, width, channels) = config, image_shape(shape)
        if height % c.patch or width % c.patch:
            raise ValueError(f"patches.patch={c.patch}: must divide the image size {height}×{width}")
        if c.overlap:
            raise ValueError(f"patches.overlap={c.overlap}: is for decoders; take it out of model.encoder")
        self.patch, self.dim, self.grid = c.patch, c.dim, (height // c.patch, width // c.patch)
        self.patch_in = Linear(c.patch**2 * channels, c.dim, bias=True, dtype=dtype, rngs=rngs)
        self.trunk = Trunk(c, dtype=dtype, rngs=rngs)

    def __call__(self, images):
        return self.trunk(self.patch_in(patchify(images, self.patch)), self.grid)


class Decoder(nnx.Module):
    """The trunk, then a linear layer that gives patches."""

    def __init__(self, config: Config, grid, shape, *, dtype, rngs: nnx.Rngs):
        c, (height, width, channels) = config, image_shape(shape)
        if (grid[0] * c.patch, grid[1] * c.patch) != (height, width):
            raise ValueError(f"patches.patch={c.patch}: {grid[0]}×{grid[1]} of them do not make {height}×{width}")
        self.patch, self.overlap, self.dim, self.grid = c.patch, c.overlap, c.dim, tuple(grid)
        self.trunk = Trunk(c, dtype=dtype, rngs=rngs)
        self.patch_out = Linear(c.dim, (c.patch + 2 * c.overlap) ** 2 * channels, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return unpatchify(self.patch_out(self.trunk(x, self.grid)), self.patch, self.grid, self.overlap)


def image_shape(shape):
    """(height, width, channels); ValueError for vectors and clips."""
    if len(shape) != 3:
        kind = "vectors" if len(shape) == 2 else "clips"
        raise ValueError(f"a network on patches needs images, not {kind} of shape {shape}")
    return shape


def patchify(images, patch: int):
    """`[B, H, W, C]` → `[B, H/p · W/p, p·p·C]`, raster order."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def unpatchify(patches, patch: int, grid, overlap: int = 0):
    """The inverse of `patchify`; patches larger by `overlap` on every side are added to their neighbours there."""
    b, _, n = patches.shape
    size = patch + 2 * overlap
    x = patches.reshape(b, *grid, size, size, n // size**2).transpose(0, 1, 3, 2, 4, 5)
    return _join(_join(x, 3, overlap), 1, overlap)


def _join(x, axis: int, overlap: int):
    """`[…, n, patch + 2 · overlap, …]`, the first at `axis` → `[…, n · patch, …]`; what is beyond an edge is lost."""
    if overlap:
        before, x, after = jnp.split(x, (overlap, x.shape[axis + 1] - overlap), axis + 1)
        rest = x.shape[axis + 1] - overlap

        def place(part, shift, pixels):
            widths = [(0, 0, 0)] * part.ndim
            widths[axis], widths[axis + 1] = (shift, -shift, 0), (*pixels, 0)
            return jax.lax.pad(part, jnp.zeros((), part.dtype), widths)

        x = x + place(after, 1, (0, rest)) + place(before, -1, (rest, 0))
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
