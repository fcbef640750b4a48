"""MLPs of which every token passes through those of its groups alone (experts under a route that is given).

What a token is not sent to is not computed: rows lie in tiles of one expert each (`ops.tiles`), which are multiplied by
that expert's matrices. No expert has a capacity, and no token is turned away.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pretrain.ops.matmul import matmul
from pretrain.ops.tiles import TILE, arrange
from pretrain.sharding import BATCH, TENSOR, current_mesh


class Experts(NamedTuple):
    """The parameters of G MLPs, None for what they lack: fc1 and, of gated ones, fc3 `[G, D, F]`, fc2 `[G, F, D]`;
    their biases bias1, bias3 `[G, F]`, bias2 `[G, D]`."""

    fc1: jax.Array
    fc2: jax.Array
    fc3: jax.Array | None = None
    bias1: jax.Array | None = None
    bias2: jax.Array | None = None
    bias3: jax.Array | None = None


def dense_experts(x, route, experts: Experts, activate, *, dtype=jnp.float32):
    """Reference: every MLP of every token, then the mean of those that the token is sent to.

    x `[B, N, D]`; route int `[B, N, k]`: the MLPs of each token, -1 for none; activate: `[…, F]` → `[…, F]`, of what
    fc1 gives; gated ones multiply that by what fc3 gives. Returns `[B, N, D]`, zeros where a token has no MLP.
    """

    def one(e):
        plus = lambda y, b: y if b is None else y + b
        h = activate(plus(matmul(x, e.fc1, dtype), e.bias1))
        h = h if e.fc3 is None else h * plus(matmul(x, e.fc3, dtype), e.bias3)
        return plus(matmul(h, e.fc2, dtype), e.bias2)

    every = jnp.stack([one(jax.tree.map(lambda w, g=g: w[g], experts)) for g in range(len(experts.fc1))])
    sent = jax.nn.one_hot(route, len(every)).sum(2)
    return jnp.einsum("bng,gbnd->bnd", sent / jnp.maximum(sent.sum(-1, keepdims=True), 1), every)


def sparse_experts(x, route, experts: Experts, activate, *, dtype=jnp.float32, tile: int = TILE):
    """As `dense_experts`, but each token is multiplied by the MLPs that it is sent to alone.

    Under a mesh every device arranges its own tokens; MLPs whose width `tensor` divides are split over it.
    """
    mesh = current_mesh()
    ways = 1 if mesh is None else mesh.shape[TENSOR]
    split = ways > 1 and experts.fc1.shape[-1] % ways == 0
    how = functools.partial(_local, activate=activate, dtype=jnp.dtype(dtype), tile=tile, split=split)
    if mesh is None:
        return how(x, route, experts)
    wide = TENSOR if split else None
    specs = Experts(P(None, None, wide), P(None, wide), P(None, None, wide), P(None, wide), P(), P(None, wide))
    specs = Experts(*(None if w is None else spec for w, spec in zip(experts, specs)))
    return jax.shard_map(how, mesh=mesh, in_specs=(P(BATCH), P(BATCH), specs), out_specs=P(BATCH), check_vma=False)(
        x, route, experts
    )


def _local(x, route, experts, *, activate, dtype, tile, split):
    """`sparse_experts` of one device's tokens."""
    k, count = route.shape[-1], jnp.maximum((route >= 0).sum(-1, keepdims=True), 1)
    tiles = arrange(route.reshape(-1), len(experts.fc1), tile)
    rows = tiles.gather(jnp.repeat(x.reshape(-1, x.shape[-1]), k, axis=0))

    def product(rows, weights, bias):
        y = _product(rows, weights, tiles.group, dtype)
        return y if bias is None else y + bias[tiles.group][:, None]

    h = activate(product(rows, experts.fc1, experts.bias1))
    h = h if experts.fc3 is None else h * product(rows, experts.fc3, experts.bias3)
    y = product(h, experts.fc2, None)
    y = jax.lax.psum(y, TENSOR) if split else y
    y = y if experts.bias2 is None else y + experts.bias2[tiles.group][:, None]
    return tiles.scatter(y).reshape(*route.shape, -1).sum(2) / count


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(x, w, group, dtype):
    """x `[T, R, K]`, w `[G, K, N]`, group `[T]` → x_t · w_group(t), fp32 `[T, R, N]`."""
    return _forward(x, w, group, dtype)[0]


def _forward(x, w, group, dtype):
    x, w, types = x.astype(dtype), w.astype(dtype), (jnp.zeros(0, x.dtype), jnp.zeros(0, w.dtype))
    _, y = jax.lax.scan(lambda _, tile: (None, _dot(tile[0], w[tile[1]], 1, 0)), None, (x, group))
    return y, (x, w, group, *types)


def _backward(dtype, residuals, upstream):
    x, w, group, x_type, w_type = residuals

    def body(dw, tile):
        x, g, dy = tile
        return dw.at[g].add(_dot(x, dy, 0, 0)), _dot(dy, w[g], 1, 1)

    # One expert's part of the gradient at a time: transposing the scan would add a whole array of zeros a tile.
    dw, dx = jax.lax.scan(body, jnp.zeros(w.shape), (x, group, upstream.astype(dtype)))
    return dx.astype(x_type.dtype), dw.astype(w_type.dtype), np.zeros(group.shape, jax.dtypes.float0)


_product.defvjp(_forward, _backward)


def _dot(a, b, a_axis, b_axis):
    return jax.lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)
