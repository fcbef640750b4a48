"""Convolutional residual networks over clips that never look ahead (MAGVIT-v2, arXiv 2310.05737, section 3.2).

Convolutions stand on a frame and those before it, and norms on one frame: so the first frame is encoded as a picture
would be, and what comes later changes nothing of what came before. As in `conv` every width after the first halves the
picture; the last `halvings` of these steps halve the time too: of 1 + k · 2^halvings frames they leave 1 + k.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.convolution import Conv, GroupNorm
from pretrain.tokenizers.networks.conv import Block, walk


@dataclasses.dataclass(frozen=True)
class Config:
    """widths: channels at each size of the picture, the whole one first; blocks: residual ones at each; groups: of the
    normalisation, a divisor of every width; halvings: of the time."""

    widths: tuple[int, ...] = (64, 128, 256, 256)
    blocks: int = 2
    groups: int = 8
    halvings: int = 2

    def __post_init__(self):
        if not self.widths or any(w < 1 or w % self.groups for w in self.widths):
            raise ValueError(f"causal3d.widths={self.widths}: must be divisible by causal3d.groups={self.groups}")
        if not 0 <= self.halvings < len(self.widths):
            raise ValueError(
                f"causal3d.halvings={self.halvings}: must be 0 … {len(self.widths) - 1}, the steps between widths"
            )

    @property
    def steps(self) -> list[int]:
        """By how much each step between two widths shortens the time, from the whole picture on."""
        last = len(self.widths) - 1
        return [2 if i >= last - self.halvings else 1 for i in range(last)]


class CausalConv(Conv):
    """3 × 3 × 3 convolution of a frame, the two before it, and their places; zeros before the first frame and around.

    stride: (of time, of space). It is computed in two dimensions, on frames whose channels stand side by side: on a CPU
    XLA's gradient of three-dimensional ones takes several times as long. kernel `[3, 3, 3 · c_in, c_out]`.
    """

    def __init__(self, c_in: int, c_out: int, stride=(1, 1), *, dtype, rngs: nnx.Rngs):
        super().__init__(3 * c_in, c_out, stride=stride[1], pad=1, dtype=dtype, rngs=rngs)
        self.step = stride[0]

    def __call__(self, x):
        """`[B, T, H, W, c_in]` → `[B, T', H', W', c_out]`."""
        late = jnp.pad(x, ((0, 0), (2, 0), (0, 0), (0, 0), (0, 0)))
        x = jnp.concatenate([late[:, i : i + x.shape[1] : self.step] for i in range(3)], axis=-1)
        y = super().__call__(x.reshape(-1, *x.shape[2:]))
        return y.reshape(*x.shape[:2], *y.shape[1:])


class FrameNorm(GroupNorm):
    """Group normalisation of each frame alone."""

    def __call__(self, x):
        return super().__call__(x.reshape(-1, *x.shape[2:])).reshape(x.shape)


def stack(c: Config, widths, **args):
    """The blocks of every size."""
    blocks = lambda w: nnx.List([Block(w, c.groups, CausalConv, FrameNorm, **args) for _ in range(c.blocks)])
    return nnx.List([blocks(w) for w in widths])


class Encoder(nnx.Module):
    """A convolution, then at each size its blocks, with convolutions of stride 2 between; norm.

    Tokens are in the order of time, row and column: the rows of `grid` are those of all times.
    """

    def __init__(self, config: Config, shape, *, dtype, rngs: nnx.Rngs):
        c, (_, _, _, channels), args = config, clip_shape(shape), dict(dtype=dtype, rngs=rngs)
        time, rows, columns = reduced(c, shape)
        self.dim, self.grid = c.widths[-1], (time * rows, columns)
        self.conv_in = CausalConv(channels, c.widths[0], **args)
        self.blocks = stack(c, c.widths, **args)
        self.down = nnx.List(
            [CausalConv(a, b, (step, 2), **args) for (a, b), step in zip(itertools.pairwise(c.widths), c.steps)]
        )
        self.norm = FrameNorm(self.dim, c.groups)

    def __call__(self, clips):
        """`[B, T, H, W, C]`, T that of the shape or any other 1 + k · 2^halvings → `[B, N, dim]`."""
        x = walk(self.conv_in(clips), self.blocks, lambda i, x: self.down[i](x))
        return self.norm(x).reshape(len(x), -1, self.dim)


class Decoder(nnx.Module):
    """The encoder's mirror: places and times are doubled by repeating them, and a convolution follows.

    Of the two that a first time becomes one is dropped, so that 1 + k of them become 1 + 2k, each made of codes that
    were made of no later frame than the last of its own group.
    """

    def __init__(self, config: Config, grid, shape, *, dtype, rngs: nnx.Rngs):
        c, (*_, channels), args, widths = config, clip_shape(shape), dict(dtype=dtype, rngs=rngs), config.widths[::-1]
        time, rows, columns = reduced(c, shape)
        if (time * rows, columns) != tuple(grid):
            raise ValueError(f"causal3d.widths={c.widths}: a grid of {grid[0]}×{grid[1]} does not become {shape}")
        self.dim, self.places, self.steps = widths[0], (rows, columns), c.steps[::-1]
        self.blocks = stack(c, widths, **args)
        self.up = nnx.List([CausalConv(a, b, **args) for a, b in itertools.pairwise(widths)])
        self.norm = FrameNorm(widths[-1], c.groups)
        self.conv_out = CausalConv(widths[-1], channels, **args)

    def __call__(self, x):
        """`[B, N, dim]` → `[B, T, H, W, C]`."""
        x = x.reshape(len(x), -1, *self.places, self.dim)
        x = walk(x, self.blocks, lambda i, x: self.up[i](doubled(x, self.steps[i])))
        return self.conv_out(jax.nn.silu(self.norm(x)))


def doubled(x, step: int):
    """`[B, T, H, W, D]` → `[B, 1 + step · (T − 1), 2H, 2W, D]`."""
    return x.repeat(step, axis=1)[:, step - 1 :].repeat(2, axis=2).repeat(2, axis=3)


def reduced(c: Config, shape) -> tuple[int, int, int]:
    """(times, rows, columns) of the tokens of a clip. ValueError if its sizes do not fit."""
    frames, height, width, _ = shape
    time, space = 2**c.halvings, 2 ** (len(c.widths) - 1)
    if (frames - 1) % time or height % space or width % space:
        raise ValueError(
            f"causal3d: needs clips of 1 + k · {time} frames whose sides are divisible by {space}, not "
            f"{frames} frames of {height}×{width}: change widths or halvings"
        )
    return 1 + (frames - 1) // time, height // space, width // space


def clip_shape(shape):
    """(frames, height, width, channels); ValueError for pictures and vectors."""
    if len(shape) != 4:
        raise ValueError(f"causal3d needs clips of shape (frames, height, width, channels), not {tuple(shape)}")
    return shape
