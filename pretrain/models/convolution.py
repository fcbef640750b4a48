"""Convolutions over maps `[B, H, W, C]`, group normalisation, and the ConvNeXt block."""

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import LayerNorm, Linear
from pretrain.parameters import param, undecayed

he_normal = jax.nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


class Conv(nnx.Module):
    """size × size convolution, zeros beyond the borders; kernel `[size, size, c_in / groups, c_out]`.

    The output has 1/stride of the input's height and width. Operands are cast to `dtype`, sums are fp32.
    pad: how many zeros stand on every side, as PyTorch's networks have them; None for `SAME`, which at stride 2 puts
    them behind an even side only.
    """

    def __init__(
        self, c_in: int, c_out: int, size: int = 3, *, stride: int = 1, groups: int = 1, pad: int | None = None, dtype,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.kernel = param(he_normal(rngs.params(), (size, size, c_in // groups, c_out), jnp.float32), matrix=True)
        self.bias = undecayed(jnp.zeros(c_out))
        self.stride, self.groups, self.dtype = stride, groups, dtype
        self.pad = "SAME" if pad is None else ((pad, pad), (pad, pad))

    def __call__(self, x):
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), self.kernel[...].astype(self.dtype), (self.stride, self.stride), self.pad,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=self.groups,
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        return y + self.bias[...]


class GroupNorm(nnx.Module):
    """fp32 normalisation over space and each of `groups` groups of channels (arXiv 1803.08494)."""

    def __init__(self, channels: int, groups: int, *, eps: float = 1e-6):
        self.groups, self.eps = groups, eps
        self.scale, self.bias = undecayed(jnp.ones(channels)), undecayed(jnp.zeros(channels))

    def __call__(self, x):
        grouped = x.reshape(*x.shape[:-1], self.groups, -1)
        centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
        variance = jnp.square(centred).mean((1, 2, 4), keepdims=True)
        y = (centred * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        return y * self.scale[...] + self.bias[...]


class ConvNeXtBlock(nnx.Module):
    """x += γ · mlp(norm(7 × 7 convolution of each channel alone)), γ from 1e-6 (arXiv 2201.03545, sections 2.4–2.6)."""

    def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, 7, groups=channels, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(channels, bias=True)
        self.fc1 = Linear(channels, 4 * channels, bias=True, dtype=dtype, rngs=rngs, split=-1)
        self.fc2 = Linear(4 * channels, channels, bias=True, dtype=dtype, rngs=rngs, split=-2)
        self.gamma = undecayed(jnp.full(channels, 1e-6))

    def __call__(self, x, given=None):
        y = jax.nn.gelu(self.fc1(self.norm(self.conv(x))), approximate=False)
        return x + self.gamma[...] * self.fc2(y), {}
