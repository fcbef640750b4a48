"""A diffusion transformer (DiT, arXiv 2212.09748) on patches, conditioned on codes: a decoder of `tokenizers.divae`.

Beside each noisy patch stands the code of its place. The time says how the norms of every block scale and shift, and
how much of a branch is added: at first nothing, so that a block starts as the identity (adaLN-Zero, section 3.2).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models import blocks
from pretrain.models.blocks.base import Given
from pretrain.models.layers import Attention, LayerNorm, Linear, Mlp
from pretrain.models.stack import make_stack, run_stack
from pretrain.ops.positions import sincos_2d
from pretrain.tokenizers.networks.patches import patchify, unpatchify
from pretrain.tokenizers.networks.unet import at_places, embed_time


@dataclasses.dataclass(frozen=True)
class Config:
    """patch: pixels that a token covers in each direction; dim: numbers in a code that it is conditioned on; width,
    depth, heads, mlp_ratio: of the transformer."""

    patch: int = 4
    dim: int = 32
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0

    def __post_init__(self):
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"dit.width={self.width}: must be divisible by dit.heads={self.heads} and by 4")


class Block(nnx.Module):
    """x += g₁ · attention(norm x · (1 + a₁) + b₁); x += g₂ · mlp(norm x · (1 + a₂) + b₂), the six from the time."""

    def __init__(self, c: Config, *, dtype, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (LayerNorm(c.width, bias=False) for _ in range(2))
        args = dict(bias=True, dtype=dtype, rngs=rngs)
        self.attn = Attention(blocks.Config(c.width, c.heads, dtype=dtype), cross=False, rngs=rngs)
        self.mlp = Mlp(c.width, c.mlp_ratio, gated=False, **args)
        self.time = zero(Linear(c.width, 6 * c.width, **args))

    def __call__(self, x, given: Given):
        """x `[B, N, D]`; the condition is the time `[B, D]`."""
        a1, b1, g1, a2, b2, g2 = jnp.split(self.time(given.condition)[:, None], 6, axis=-1)
        x = x + g1 * self.attn(self.norm1(x) * (1 + a1) + b1)
        return x + g2 * self.mlp(self.norm2(x) * (1 + a2) + b2), {}


class Decoder(nnx.Module):
    """(x_t `[B, H, W, C]`, t `[B]`, codes `[B, N, dim]`) → its prediction `[B, H, W, C]`, zeros at first."""

    def __init__(self, config: Config, grid, shape, *, dtype, rngs: nnx.Rngs):
        c, self.dim, self.grid, self.shape, self.patch = config, config.dim, tuple(grid), tuple(shape), config.patch
        height, width, channels = shape
        if height % c.patch or width % c.patch:
            raise ValueError(f"dit.patch={c.patch}: must divide the image size {height}×{width}")
        self.places, args = (height // c.patch, width // c.patch), dict(bias=True, dtype=dtype, rngs=rngs)
        self.time1, self.time2 = (Linear(c.width, c.width, **args) for _ in range(2))
        self.patch_in = Linear(c.patch**2 * channels + c.dim, c.width, **args)
        self.blocks = make_stack(lambda rngs: Block(c, dtype=dtype, rngs=rngs), c.depth, rngs)
        self.norm = LayerNorm(c.width, bias=False)
        self.time = zero(Linear(c.width, 2 * c.width, **args))
        self.patch_out = zero(Linear(c.width, c.patch**2 * channels, **args))

    def __call__(self, x, t, codes):
        width = self.norm.scale.shape[0]
        time = jax.nn.silu(self.time2(jax.nn.silu(self.time1(embed_time(t, width)))))
        codes = at_places(codes, self.grid, self.places).reshape(len(x), -1, self.dim)
        x = self.patch_in(jnp.concatenate([patchify(x, self.patch), codes], axis=-1))
        x, _ = run_stack(self.blocks, x + jnp.asarray(sincos_2d(*self.places, width)), Given(condition=time))
        a, b = jnp.split(self.time(time)[:, None], 2, axis=-1)
        return unpatchify(self.patch_out(self.norm(x) * (1 + a) + b), self.patch, self.places)


def zero(linear: Linear) -> Linear:
    """The layer, its kernel zeros at first."""
    linear.kernel[...] = jnp.zeros_like(linear.kernel[...])
    return linear
