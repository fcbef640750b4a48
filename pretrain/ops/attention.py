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
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) * scale
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v, preferred_element_type=jnp.float32)
