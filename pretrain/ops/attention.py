"""Scaled dot-product attention with boolean masks and an optional additive bias."""

import jax
import jax.numpy as jnp

from pretrain.ops.fused_attention import attend_fused, choose


def attend(q, k, v, *, mask=None, bias=None, how="xla"):
    """softmax(q·kᵀ/√d + bias) v, with fp32 softmax (arXiv 1706.03762, section 3.2.1).

    q `[B, N, H, d]`, k and v `[B, M, H, d]`; mask bool, broadcastable to `[B, H, N, M]`, True where a query may
    look; bias additive, same shape. A query that may look nowhere gets the uniform mean of v, as in 4M: the fill is
    the most negative finite number, so no NaN arises. how: `xla`, a fused kernel by name, or
    `auto` (`fused_attention.choose`), which must equal this one. Returns `[B, N, H, d]` in fp32.
    """
    if kernel := choose(how, q, k, mask, bias):
        return attend_fused(kernel, q, k, v, mask)
    # Heads first and normalised last: a CPU's kernels take both products as they lie, and XLA keeps one array of the
    # size of the scores for the backward pass instead of two.
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q, k, v))
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    y = jnp.einsum("bhnm,bhmd->bhnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return jnp.moveaxis(y / weights.sum(-1, keepdims=True), 1, 2)
