"""Matrix products with low-precision operands and fp32 accumulation, in the backward pass too."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x, w, dtype):
    """x `[…, K]` · w `[K, N]` → fp32 `[…, N]`; operands are cast to `dtype`, sums are fp32.

    Plain autodiff of such a product would multiply an fp32 cotangent by a low-precision operand, which runs at fp32
    speed: here the cotangent is cast as well.
    """
    return _dot(x.astype(dtype), w.astype(dtype), 1, 0)


def _forward(x, w, dtype):
    # The originals' types are remembered by empty arrays: gradients come back in them.
    x_low, w_low = x.astype(dtype), w.astype(dtype)
    return _dot(x_low, w_low, 1, 0), (x_low, w_low, jnp.zeros(0, x.dtype), jnp.zeros(0, w.dtype))


def _backward(dtype, residuals, g):
    x, w, x_type, w_type = residuals
    g = g.astype(dtype)
    dx = _dot(g, w, 1, 1)
    dw = _dot(x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]), 0, 0)
    return dx.astype(x_type.dtype), dw.astype(w_type.dtype)


def _dot(a, b, a_axis, b_axis):
    """Contracts the last axis of a (the first if `a_axis` is 0) with axis `b_axis` of b."""
    a_axis = a.ndim - 1 if a_axis else 0
    dims = (((a_axis,), (b_axis,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


matmul.defvjp(_forward, _backward)
