"""Self-attention that says what its first token looks at."""

import jax
import jax.numpy as jnp

from pretrain.models.blocks import attention
from pretrain.models.blocks.base import Given
from pretrain.models.layers import Seen

FIRST = "first"  # the auxiliary output


class SelfAttention(attention.SelfAttention):
    """As in every block; beside it `first [B, N]`, the mean over heads of softmax(q_0 kᵀ / √d), without gradient."""

    def __call__(self, x, given: Given, memory=None):
        q, k, v = self.project(self.norm(x))
        return self.mix(q, k, v, given.seen), {FIRST: first_weights(q[:, :1], k, given.seen)}, None


def first_weights(q, k, seen: Seen):
    """`[B, N]` of one query `[B, 1, H, d]` and keys `[B, N, H, d]`, in fp32; the kernels that mix tell no weights."""
    q, k = (jax.lax.stop_gradient(x).astype(jnp.float32) for x in (q, k))
    scores = jnp.einsum("bqhd,bnhd->bhqn", q, k, precision=jax.lax.Precision.HIGHEST) * q.shape[-1] ** -0.5
    if seen.bias is not None:
        scores = scores + jax.lax.stop_gradient(seen.bias)[:, :, :1]
    if seen.mask is not None:
        scores = jnp.where(seen.mask[:, :, :1], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores)[:, :, 0].mean(1)
