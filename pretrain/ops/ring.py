"""Losses over all pairs of the global batch in bounded memory: rows in blocks, columns gathered or around a ring.

Gathering is what CLIP does (arXiv 2103.00020, section 2.5), the ring what SigLIP does (arXiv 2303.15343, section 3.3).
Under a mesh the batch is split over `data` and `fsdp`; devices along `tensor` repeat each other's work.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from pretrain.sharding import BATCH, constrain, current_mesh


def map_rows(fn, scalars, rows, columns, *, block=0):
    """`fn(scalars, rows, columns)` → `[n]`, one number a row; at most `block` rows at a time, recomputed backward.

    rows and columns are trees of arrays `[B, …]`; fn sees n of the rows and all of the columns, and must not close over
    traced values. With block=0 that is one call on the global arrays, which XLA partitions. Otherwise each device
    gathers the columns and runs its own rows, so its largest array is `[block, B]`. Returns `[B]`.
    """
    if not block:
        return fn(scalars, jax.tree.map(constrain, rows), jax.tree.map(_whole, columns))

    def local(scalars, rows, columns):
        return _in_blocks(lambda rows: fn(scalars, rows, columns), rows, block, "block")

    mesh = current_mesh()
    if mesh is None:
        return local(scalars, rows, columns)

    def gathered(scalars, rows, columns):
        columns = jax.tree.map(lambda x: jax.lax.all_gather(x, BATCH, tiled=True), columns)
        return local(scalars, rows, columns)

    return _over_batch(gathered, mesh)(scalars, rows, columns)


def ring_sum(fn, scalars, rows, columns, *, chunk):
    """`[B]`: for each row the sum over all columns, where `fn(scalars, rows, columns)` → `[n]` sums over some of them.

    rows and columns are pairs (embeddings `[B, D]`, what has no gradient `[B]`). Devices pass their columns on to the
    next one until each has seen all; within a device `chunk` rows run at a time. Forward and backward a device holds
    its part of the batch, a visitor, and a `[chunk, B / devices]`; never all columns.
    """

    def part(scalars, rows, columns):
        return _in_blocks(lambda rows: fn(scalars, rows, columns), rows, chunk, "chunk")

    mesh = current_mesh()
    if mesh is None:
        return part(scalars, rows, columns)
    ways = math.prod(mesh.shape[axis] for axis in BATCH)
    return _over_batch(functools.partial(_ring, part, ways), mesh)(scalars, rows, columns)


# Autodiff of the scan would keep every visitor, that is all columns: the backward pass goes around once more instead.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(part, ways, scalars, rows, columns):
    return _forward(part, ways, scalars, rows, columns)[0]


def _forward(part, ways, scalars, rows, columns):
    def visit(carry, _):
        total, visitor = carry
        return (total + part(scalars, rows, visitor), _pass_on(visitor, ways)), None

    (total, _), _ = jax.lax.scan(visit, (jnp.zeros(len(rows[0])), columns), length=ways)
    return total, (scalars, rows, columns)


def _backward(part, ways, residuals, upstream):
    scalars, (a, row_ids), (b, column_ids) = residuals

    def visit(carry, _):
        d_scalars, d_a, visitor, ids, d_visitor = carry
        _, pull = jax.vjp(lambda s, a, b: part(s, (a, row_ids), (b, ids)), scalars, a, visitor)
        more = pull(upstream)
        d_scalars, d_a, d_visitor = jax.tree.map(jnp.add, (d_scalars, d_a, d_visitor), more)
        # A visitor's gradient travels with it, and is complete when it is home again.
        return (d_scalars, d_a, *_pass_on((visitor, ids, d_visitor), ways)), None

    d_scalars, d_a, d_b = jax.tree.map(jnp.zeros_like, (scalars, a, b))
    carry, _ = jax.lax.scan(visit, (d_scalars, d_a, b, column_ids, d_b), length=ways)
    d_scalars, d_a, _, _, d_b = carry
    return d_scalars, (d_a, None), (d_b, None)


_ring.defvjp(_forward, _backward)


def _pass_on(tree, ways):
    return jax.lax.ppermute(tree, BATCH, [(i, (i + 1) % ways) for i in range(ways)])


def _over_batch(fn, mesh):
    """`fn(scalars, rows, columns)` → `[n]` on each device's own part of the batch."""
    # Of an argument that several devices hold, `shard_map` adds up the gradients that they return, after handing each
    # of those that repeat one another (along `tensor`) its share: copies count once, parts of the batch add up.
    specs = P(), P(BATCH), P(BATCH)
    return jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=P(BATCH), check_vma=False)


def _whole(x):
    # Rows split, columns whole: otherwise XLA would have to choose which side of a product stays split.
    return x if current_mesh() is None else jax.lax.with_sharding_constraint(x, P())


def _in_blocks(fn, rows, block, name):
    """`fn(rows)` → `[n]`, `block` rows at a time; the backward pass recomputes each block rather than keep it."""
    n = len(jax.tree.leaves(rows)[0])
    block = min(block, n)
    if n % block:
        fits = max(d for d in range(1, block) if n % d == 0)
        raise ValueError(f"{name}={block}: does not divide the {n} examples that a device holds; {fits} would")
    blocks = jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), rows)
    return jax.lax.map(jax.checkpoint(fn, prevent_cse=False), blocks).reshape(n)
