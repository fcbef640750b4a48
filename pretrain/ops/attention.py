"""Scaled dot-product attention with boolean masks and an optional additive bias."""

import jax
import jax.numpy as jnp
import numpy as np

from pretrain.ops.fused_attention import attend_fused, choose
from pretrain.sharding import device_kind

LANES = 128  # a TPU's tiles are so wide


def attend(q, k, v, *, mask=None, bias=None, how="xla"):
    """softmax(q·kᵀ/√d + bias) v, with fp32 softmax (arXiv 1706.03762, section 3.2.1).

    q `[B, N, H, d]`, k and v `[B, M, H, d]`; mask bool, broadcastable to `[B, H, N, M]`, True where a query may
    look; bias additive, same shape. A query that may look nowhere gets the uniform mean of v, as in 4M: the fill is
    the most negative finite number, so no NaN arises. how: `xla`, a fused kernel by name, or
    `auto` (`fused_attention.choose`), which must equal this one. Returns `[B, N, H, d]` in fp32.
    """
    if kernel := choose(how, q, k, mask, bias):
        return attend_fused(kernel, q, k, v, mask)
    # Heads first: a CPU's kernels take both products as they lie.
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q, k, v))
    # Scores over 197 keys would be laid out examples last and copied, twice a block: over 256 they take as much memory.
    if k.shape[2] > LANES // 2 and k.shape[2] % LANES and device_kind().startswith("TPU"):
        k, v, mask, bias = pad_keys(k, v, mask, bias, -k.shape[2] % LANES)
    return jnp.moveaxis(_attend(q, k, v, mask, bias), 1, 2)


def pad_keys(k, v, mask, bias, more: int):
    """Heads first, with `more` keys behind them that have no weight: exp(−∞), also where a query may look nowhere."""
    last = lambda x, fill: jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, more),), constant_values=fill)
    m = k.shape[2]
    k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for x in (k, v))
    if mask is not None:
        mask = last(jnp.broadcast_to(mask, (*mask.shape[:-1], m)), True)
    bias = jnp.zeros((1, 1, 1, m)) if bias is None else jnp.broadcast_to(bias, (*bias.shape[:-1], m))
    return k, v, mask, last(bias, -jnp.inf)


@jax.custom_vjp
def _attend(q, k, v, mask, bias):
    """Heads first: q `[B, H, N, d]`, k and v `[B, H, M, d]` → fp32 `[B, H, N, d]`."""
    return _forward(q, k, v, mask, bias)[0]


def _forward(q, k, v, mask, bias):
    scores = _dot(q, k, 3, 3) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    # Normalised last, and the backward pass finds one array of the size of the scores, of the type of the operands.
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    total = weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    y = _dot(weights, v, 3, 2) / total
    return y, (q, k, v, mask, bias, weights, total, y.astype(v.dtype))


def _backward(residuals, g):
    q, k, v, mask, bias, weights, total, y = residuals
    # Every product has operands of one type, as forward: a cotangent in fp32 would make it an fp32 product.
    falls = (g * y).sum(-1, keepdims=True) / total
    g = (g / total).astype(v.dtype)
    d_scores = weights * (_dot(g, v, 3, 3) - falls)
    if mask is not None:  # where a query may look nowhere its weights are not zero
        d_scores = jnp.where(mask, d_scores, 0.0)
    low, scale = d_scores.astype(q.dtype), q.shape[-1] ** -0.5
    d_q, d_k, d_v = _dot(low, k, 3, 2) * scale, _dot(low, q, 2, 2) * scale, _dot(weights, g, 2, 2)
    d_mask = None if mask is None else np.zeros(mask.shape, jax.dtypes.float0)
    d_bias = None if bias is None else _sum_to(d_scores, bias)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), d_mask, d_bias


_attend.defvjp(_forward, _backward)


def _dot(a, b, a_axis, b_axis):
    """Contracts an axis of each, of every example and head; fp32."""
    dims = ((a_axis,), (b_axis,)), ((0, 1), (0, 1))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _sum_to(x, like):
    """x `[B, H, N, M]` summed over what was broadcast of `like`."""
    x = x.sum(tuple(range(x.ndim - like.ndim)))
    axes = tuple(i for i, (n, m) in enumerate(zip(x.shape, like.shape)) if m != n)
    return x.sum(axes, keepdims=True).astype(like.dtype)
