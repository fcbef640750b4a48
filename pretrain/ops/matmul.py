"""Matrix products with low-precision operands and fp32 accumulation, in the backward pass too."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pretrain.sharding import TENSOR, current_mesh, device_kind, gather_matrix, scatter_matrix

PRODUCT = "product"  # what rematerialisation may keep of it: the result as it flows on, not the fp32 sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def matmul(x, w, dtype, split=None, inner=(), outer=()):
    """x `[…, K]` · w `[K, N]` → `[…, N]` of the type of x; operands are cast to `dtype`, sums are fp32.

    inner, outer: the axes that x has in the place of K, and the result in that of N, such as (heads, width): a reshape
    behind a product is a copy on a TPU, which lays a product with these axes out as what reads it wants it.

    Plain autodiff of such a product would multiply an fp32 cotangent by a low-precision operand, which runs at fp32
    speed: here the cotangent is cast as well. split: of w on a mesh (`Linear`): it is gathered as it is multiplied, in
    `dtype`, once forward and once backward; None leaves that to XLA.
    """
    return _forward(x, w, dtype, split, inner, outer)[0]


def _forward(x, w, dtype, split, inner, outer):
    # The type of x is remembered by an empty array: its gradient comes back in it. Of w no cast copy is kept: a scan
    # over layers would stack one.
    low, m = x.astype(dtype), _axes(inner)
    y = _dot(low, _whole(w, dtype, split, inner, outer), range(x.ndim - m, x.ndim), range(m), x.dtype)
    return checkpoint_name(y, PRODUCT), (low, w, jnp.zeros(0, x.dtype))


def _backward(dtype, split, inner, outer, residuals, g):
    x, w, x_type = residuals
    g, m, n = g.astype(dtype), _axes(inner), _axes(outer)
    whole = _whole(w, dtype, split, inner, outer)
    dx = _dot(g, whole, range(g.ndim - n, g.ndim), range(m, m + n), x_type.dtype)
    if not inner and not outer:
        x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    rows = range(x.ndim - m)
    dw = _dot(x, g, rows, rows, w.dtype).reshape(w.shape)
    return dx, dw if split is None else scatter_matrix(dw, split)


def _axes(given) -> int:
    return max(len(given), 1)


def _whole(w, dtype, split, inner, outer):
    """w with the axes `[*inner, *outer]`."""
    w = w.astype(dtype) if split is None else gather_matrix(w.astype(dtype), split)
    return w.reshape(*(inner or w.shape[:1]), *(outer or w.shape[1:]))


def _dot(a, b, a_axes, b_axes, out):
    """Contracts axes of a with axes of b; out: the result's type.

    A TPU sums in fp32 whatever it gives, and has less to write; where `tensor` splits what is summed, parts are added
    between devices, in fp32.
    """
    mesh = current_mesh()
    whole = mesh is None or mesh.shape[TENSOR] == 1
    given = out if whole and device_kind().startswith("TPU") else jnp.float32
    dims = ((tuple(a_axes), tuple(b_axes)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=given).astype(out)


matmul.defvjp(_forward, _backward)
