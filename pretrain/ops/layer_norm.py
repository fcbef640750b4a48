"""Layer normalisation in fp32 whatever the type of its input, with a backward pass that keeps that input alone."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x, scale, bias, eps):
    """(x − mean) / √(variance + eps) · scale + bias over the last axis (arXiv 1607.06450, section 3), of the type of x.

    x `[…, D]`; scale `[D]` and bias `[D]` or None, fp32. Autodiff would keep fp32 arrays of the size of x.
    """
    return _forward(x, scale, bias, eps)[0]


def _forward(x, scale, bias, eps):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + eps)
    y = (wide - mean) * inverse * scale
    return (y if bias is None else y + bias).astype(x.dtype), (x, scale, bias, mean, inverse)


def _backward(eps, residuals, g):
    x, scale, bias, mean, inverse = residuals
    unit, g = (x.astype(jnp.float32) - mean) * inverse, g.astype(jnp.float32)
    d_unit, rows = g * scale, tuple(range(g.ndim - 1))
    along = d_unit.mean(-1, keepdims=True), (d_unit * unit).mean(-1, keepdims=True)
    d_x = inverse * (d_unit - along[0] - unit * along[1])
    return d_x.astype(x.dtype), (g * unit).sum(rows), None if bias is None else g.sum(rows)


layer_norm.defvjp(_forward, _backward)
