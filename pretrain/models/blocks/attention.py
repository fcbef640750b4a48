"""Self-attention and cross-attention as branches of a block, pre-norm as in 4M (arXiv 2312.06647, appendix A)."""

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.blocks.base import Config, Given
from pretrain.models.layers import Attention, LayerNorm, Seen


class SelfAttention(Attention):
    """attention(norm x)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config, cross=False, rngs=rngs)
        self.norm = LayerNorm(config.dim, bias=config.bias, eps=config.eps)

    def __call__(self, x, given: Given, memory=None):
        q, k, v = self.project(self.norm(x))
        if memory is None:
            return self.mix(q, k, v, given.seen), {}, None
        k, v = (jax.lax.dynamic_update_slice_in_dim(a, b, given.at, 1) for a, b in zip(memory, (k, v)))
        past = (jnp.arange(k.shape[1]) <= given.at)[None, None, None]
        return self.mix(q, k, v, Seen(past)), {}, (k, v)

    def open(self, given: Given, length: int):
        """Keys and values `[B, length, H, d]` of the tokens that will be written."""
        shape = len(given.context), length, self.heads, self.qkv.kernel.shape[-2] // self.heads
        empty = jnp.zeros(shape, given.context.dtype)
        return empty, empty


class CrossAttention(Attention):
    """attention(norm x, context_norm c)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config, cross=True, rngs=rngs)
        self.norm = LayerNorm(config.dim, bias=config.bias, eps=config.eps)
        self.context_norm = LayerNorm(config.dim, bias=config.bias, eps=config.eps)

    def __call__(self, x, given: Given, memory=None):
        k, v = self.open(given, 0) if memory is None else memory
        return self.mix(self.project_q(self.norm(x)), k, v, given.context_seen), {}, memory

    def open(self, given: Given, length: int):
        """Keys and values `[B, M, H, d]` of the context, which no step changes."""
        return self.project_kv(self.context_norm(given.context))
