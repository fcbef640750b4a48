"""The diffusion UNet of ADM (arXiv 2105.05233) on patches, conditioned on codes: 4M's UNet-P4 (arXiv 2312.06647).

The image is cut into patches (arXiv 2207.04316), beside which the codes stand, repeated to the same resolution; then
residual blocks that know the time go down through the levels and up again, each block on the way up beside what a
block on the way down gave.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models import blocks
from pretrain.models.convolution import Conv, GroupNorm
from pretrain.models.layers import Attention, Linear
from pretrain.tokenizers.networks.patches import patchify, unpatchify

LONGEST_WAVE = 10000.0
EPS = 1e-5  # of the normalisations, as in ADM


@dataclasses.dataclass(frozen=True)
class Config:
    """patch: pixels that a place of the first level covers in each direction.

    dim: numbers in a code that it is conditioned on.
    channels, multipliers: the width is channels · multiplier at each level; each has half the resolution of the last.
    blocks: residual blocks of a level on the way down; the way up has one more.
    attention: how much smaller than the first level those are that have self-attention.
    groups: of channels, that are normalised together.
    """

    patch: int = 4
    dim: int = 32
    channels: int = 256
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 3
    attention: tuple[int, ...] = (4, 8)
    heads: int = 1
    groups: int = 32

    def __post_init__(self):
        if self.channels % self.groups or self.channels % 2 or self.channels % self.heads:
            raise ValueError(
                f"unet.channels={self.channels}: must be even and divisible by groups={self.groups} and "
                f"heads={self.heads}"
            )
        if not self.multipliers or self.blocks < 1:
            raise ValueError(f"unet.multipliers={self.multipliers}, blocks={self.blocks}: at least one of each")


class ResidualBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm x)) + time))); it starts as x itself, or its projection to other channels."""

    def __init__(self, config: Config, c_in: int, c_out: int, dtype, rngs: nnx.Rngs):
        self.norm1, self.norm2 = GroupNorm(c_in, config.groups, eps=EPS), GroupNorm(c_out, config.groups, eps=EPS)
        self.conv1 = Conv(c_in, c_out, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(c_out, c_out, dtype=dtype, rngs=rngs)
        self.conv2.kernel[...] = jnp.zeros_like(self.conv2.kernel[...])
        self.time = Linear(4 * config.channels, c_out, bias=True, dtype=dtype, rngs=rngs)
        self.skip = Linear(c_in, c_out, bias=True, dtype=dtype, rngs=rngs) if c_in != c_out else None

    def __call__(self, x, time):
        y = self.conv1(jax.nn.silu(self.norm1(x))) + self.time(jax.nn.silu(time))[:, None, None]
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return y + (x if self.skip is None else self.skip(x))


class SelfAttention(nnx.Module):
    """x + attention(norm x) between all places; it starts as x itself."""

    def __init__(self, config: Config, channels: int, dtype, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, config.groups, eps=EPS)
        self.attn = Attention(blocks.Config(channels, config.heads, dtype=dtype), cross=False, rngs=rngs)
        self.attn.proj.kernel[...] = jnp.zeros_like(self.attn.proj.kernel[...])

    def __call__(self, x):
        y = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
        return x + self.attn(y).reshape(x.shape)


class Block(nnx.Module):
    """A residual block, and self-attention where the level has it."""

    def __init__(self, config: Config, c_in: int, c_out: int, attention: bool, dtype, rngs: nnx.Rngs):
        self.residual = ResidualBlock(config, c_in, c_out, dtype, rngs)
        self.attention = SelfAttention(config, c_out, dtype, rngs) if attention else None

    def __call__(self, x, time):
        x = self.residual(x, time)
        return x if self.attention is None else self.attention(x)


class Level(nnx.Module):
    """The blocks of one resolution, on one of the two ways, and the convolution that leaves it, None at the end."""

    def __init__(self, config: Config, c_ins, c_out: int, attention: bool, leave: Conv | None, dtype, rngs: nnx.Rngs):
        self.blocks = nnx.Dict(
            {str(i): Block(config, c_in, c_out, attention, dtype, rngs) for i, c_in in enumerate(c_ins)}
        )
        self.leave = leave

    def down(self, x, time):
        """x `[B, H, W, c]` → (x at half the size if it leaves, what each block and the convolution gave)."""
        skips = []
        for i in range(len(self.blocks)):
            x = self.blocks[str(i)](x, time)
            skips.append(x)
        if self.leave is not None:
            x = self.leave(x)
            skips.append(x)
        return x, skips

    def up(self, x, time, skips: list):
        """Takes the last of `skips` for each block; x comes back at twice the size if it leaves."""
        for i in range(len(self.blocks)):
            x = self.blocks[str(i)](jnp.concatenate([x, skips.pop()], -1), time)
        return x if self.leave is None else self.leave(x.repeat(2, 1).repeat(2, 2))


class Decoder(nnx.Module):
    """(x_t `[B, H, W, C]`, t `[B]`, codes `[B, N, dim]`) → its prediction `[B, H, W, C]`."""

    def __init__(self, config: Config, grid, shape, *, dtype, rngs: nnx.Rngs):
        c, self.config, self.dim, self.grid, self.shape = config, config, config.dim, tuple(grid), tuple(shape)
        height, width, channels = shape
        shrink = c.patch * 2 ** (len(c.multipliers) - 1)
        if height % shrink or width % shrink:
            raise ValueError(f"unet: patch · 2^(levels − 1) = {shrink} must divide the image size {height}×{width}")
        hidden, pixels = 4 * c.channels, c.patch**2 * channels
        widths, last = [c.channels * m for m in c.multipliers], len(c.multipliers) - 1
        attends = [2**i in c.attention for i in range(len(widths))]

        def conv(c_in, c_out, stride=1):
            return Conv(c_in, c_out, stride=stride, pad=1, dtype=dtype, rngs=rngs)

        self.time1 = Linear(c.channels, hidden, bias=True, dtype=dtype, rngs=rngs)
        self.time2 = Linear(hidden, hidden, bias=True, dtype=dtype, rngs=rngs)
        self.stem = conv(pixels + c.dim, widths[0])
        skips, down, up = [widths[0]], {}, {}
        for i, w in enumerate(widths):
            c_ins = [skips[-1]] + [w] * (c.blocks - 1)
            leave = conv(w, w, stride=2) if i < last else None
            down[str(i)] = Level(c, c_ins, w, attends[i], leave, dtype, rngs)
            skips += [w] * (c.blocks + (i < last))
        self.down = nnx.Dict(down)
        self.middle1 = Block(c, widths[-1], widths[-1], True, dtype, rngs)
        self.middle2 = ResidualBlock(c, widths[-1], widths[-1], dtype, rngs)
        x = widths[-1]
        for i, w in reversed(list(enumerate(widths))):
            c_ins = [(x if j == 0 else w) + skips.pop() for j in range(c.blocks + 1)]
            up[str(i)] = Level(c, c_ins, w, attends[i], conv(w, w) if i else None, dtype, rngs)
            x = w
        self.up = nnx.Dict(up)
        self.norm, self.out = GroupNorm(x, c.groups, eps=EPS), conv(x, pixels)
        self.out.kernel[...] = jnp.zeros_like(self.out.kernel[...])

    def __call__(self, x, t, codes):
        c = self.config
        rows, columns = self.shape[0] // c.patch, self.shape[1] // c.patch
        time = self.time2(jax.nn.silu(self.time1(embed_time(t, c.channels))))
        codes = at_places(codes, self.grid, (rows, columns))
        x = jnp.concatenate([patchify(x, c.patch).reshape(-1, rows, columns, c.patch**2 * self.shape[2]), codes], -1)
        x = self.stem(x)
        skips = [x]
        for i in range(len(c.multipliers)):
            x, new = self.down[str(i)].down(x, time)
            skips += new
        x = self.middle2(self.middle1(x, time), time)
        for i in reversed(range(len(c.multipliers))):
            x = self.up[str(i)].up(x, time, skips)
        x = self.out(jax.nn.silu(self.norm(x)))
        return unpatchify(x.reshape(x.shape[0], rows * columns, -1), c.patch, (rows, columns))


def at_places(codes, grid, places):
    """codes `[B, N, D]` of a grid → `[B, *places, D]`: at each place the code that covers it."""
    codes = codes.reshape(-1, *grid, codes.shape[-1])
    rows, columns = (jnp.arange(n) * m // n for n, m in zip(places, grid))
    return codes[:, rows][:, :, columns]


def embed_time(t, dim: int):
    """t `[B]` → `[B, dim]`: cos | sin of t / 10000^(k / (dim/2)) (arXiv 2006.11239, appendix B, after 1706.03762)."""
    angle = t.astype(jnp.float32)[:, None] * jnp.exp(-jnp.log(LONGEST_WAVE) * jnp.arange(dim // 2) / (dim // 2))
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
