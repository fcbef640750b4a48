"""Matrix products with low-precision operands and fp32 accumulation, in the backward pass too."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pretrain.sharding import gather_matrix, scatter_matrix

PRODUCT = "product"  # what rematerialisation may keep of it: the result as it flows on, not the fp32 sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def matmul(x, w, dtype, split=None):
    """x `[…, K]` · w `[K, N]` → `[…, N]` of the type of x; operands are cast to `dtype`, sums are fp32.

    Plain autodiff of such a product would multiply an fp32 cotangent by a low-precision operand, which runs at fp32
    speed: here the cotangent is cast as well. split: of w on a mesh (`Linear`): it is gathered as it is multiplied, in
    `dtype`, once forward and once backward; None leaves that to XLA.
    """
    return _forward(x, w, dtype, split)[0]


def _forward(x, w, dtype, split):
    # The type of x is remembered by an empty array: its gradient comes back in it. Of w no cast copy is kept: a scan
    # over layers would stack one.
    low = x.astype(dtype)
    y = checkpoint_name(_dot(low, _whole(w, dtype, split), 1, 0, x.dtype), PRODUCT)
    return y, (low, w, jnp.zeros(0, x.dtype))


def _backward(dtype, split, residuals, g):
    x, w, x_type = residuals
    g = g.astype(dtype)
    dx = _dot(g, _whole(w, dtype, split), 1, 1, x_type.dtype)
    dw = _dot(x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]), 0, 0, w.dtype)
    return dx, dw if split is None else scatter_matrix(dw, split)


def _whole(w, dtype, split):
    return w.astype(dtype) if split is None else gather_matrix(w.astype(dtype), split)


def _dot(a, b, a_axis, b_axis, out):
    """Contracts the last axis of a (the first if `a_axis` is 0) with axis `b_axis` of b; out: the result's type."""
    a_axis = a.ndim - 1 if a_axis else 0
    dims = (((a_axis,), (b_axis,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32).astype(out)


matmul.defvjp(_forward, _backward)
