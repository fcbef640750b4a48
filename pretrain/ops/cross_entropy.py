"""Cross-entropy of tokens that belong to different vocabularies, each against its own table only.

With logits l, their log-sum-exp z and label t a token's loss is (1 − ε)(z − l_t) + ε (z − mean l) + c z²: ε is the
label smoothing of arXiv 1512.00567, section 7, and c the z-loss of PaLM (arXiv 2204.02311, section 5).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pretrain.ops.matmul import matmul
from pretrain.ops.tiles import TILE, arrange
from pretrain.sharding import BATCH, TENSOR, current_mesh, scattered


def dense_nll(y, tables, vocab, labels, valid, *, dtype=jnp.float32, z_loss=0.0, smoothing=0.0):
    """Reference: the logits of every token over every table, the other vocabularies masked out.

    y `[B, M, D]`, tables list of `[V, D]`, vocab and labels int `[B, M]`, valid bool `[B, M]`. Returns `[B, M]`.
    """
    table = jnp.concatenate(tables)
    owner = jnp.concatenate([jnp.full(len(t), i) for i, t in enumerate(tables)])
    start = jnp.cumsum(jnp.asarray([0] + [len(t) for t in tables[:-1]]))
    logits = matmul(y, table.T, dtype)
    mine = owner == vocab[..., None]
    z = jax.nn.logsumexp(jnp.where(mine, logits, -jnp.inf), axis=-1)
    own = jnp.take_along_axis(logits, (start[vocab] + labels)[..., None], axis=-1)[..., 0]
    mean = jnp.where(mine, logits, 0.0).sum(-1) / mine.sum(-1)
    return jnp.where(valid, z - (1 - smoothing) * own - smoothing * mean + z_loss * z**2, 0.0)


def grouped_nll(y, tables, vocab, labels, valid, *, dtype=jnp.float32, z_loss=0.0, smoothing=0.0, tile=TILE):
    """As `dense_nll`, but the tokens are sorted by vocabulary and run in tiles of one vocabulary at a time.

    Cost follows each token's own vocabulary; memory is one tile's logits, recomputed in the backward pass. Under a mesh
    every device sorts and runs its own tokens; a vocabulary that `tensor` divides stays split over it.
    """
    mesh = current_mesh()
    ways = 1 if mesh is None else mesh.shape[TENSOR]
    split = tuple(ways > 1 and len(t) % ways == 0 for t in tables)
    how = _How(jnp.dtype(dtype), z_loss, smoothing, tile, split, ways)

    def local(y, vocab, labels, valid, *tables):
        flat = [a.reshape(-1, *a.shape[2:]) for a in (y, vocab, labels, valid)]
        return _grouped(how, flat[0], tables, *flat[1:]).reshape(vocab.shape)

    if mesh is None:
        return local(y, vocab, labels, valid, *tables)
    batch, tables = P(BATCH), [scattered(t, -2) for t in tables]
    specs = (batch,) * 4 + tuple(P(TENSOR) if s else P() for s in split)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=batch, check_vma=False)(
        y, vocab, labels, valid, *tables
    )


class _How(NamedTuple):
    """What does not change between calls; split[i]: this device holds one of `ways` slices of table i."""

    dtype: jnp.dtype
    z_loss: float
    smoothing: float
    tile: int
    split: tuple[bool, ...]
    ways: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped(how, y, tables, vocab, labels, valid):
    return _forward(how, y, tables, vocab, labels, valid)[0]


def _forward(how, y, tables, vocab, labels, valid):
    tiles = arrange(jnp.where(valid, vocab, -1), len(tables), how.tile)
    y_tiles, label_tiles = tiles.gather(y), tiles.gather(labels)
    out = jnp.zeros((2, *label_tiles.shape))  # loss and log-sum-exp of every token
    for g, table in enumerate(tables):
        weights = table.astype(how.dtype)

        def body(i, out, g=g, weights=weights):
            logits = _dot(y_tiles[i].astype(how.dtype), weights, 1, 1)
            top, total = logits.max(-1), logits.sum(-1)
            at, here = _own(how, g, weights, label_tiles[i])
            own = jnp.where(here, jnp.take_along_axis(logits, at[:, None], axis=-1)[:, 0], 0.0)
            if how.split[g]:
                top = jax.lax.pmax(top, TENSOR)
            z = jnp.exp(logits - top[:, None]).sum(-1)
            if how.split[g]:
                z, own, total = jax.lax.psum((z, own, total), TENSOR)
            z = top + jnp.log(z)
            mean = total / _size(how, g, weights)
            loss = z - (1 - how.smoothing) * own - how.smoothing * mean + how.z_loss * z**2
            return out.at[:, i].set(jnp.stack([loss, z]))

        with tiles.rounds:
            out = jax.lax.fori_loop(tiles.first[g], tiles.first[g] + tiles.count[g], body, out)
    return tiles.scatter(out[0]), (y, tables, vocab, labels, valid, out[1])


def _backward(how, residuals, upstream):
    y, tables, vocab, labels, valid, z_tiles = residuals
    tiles = arrange(jnp.where(valid, vocab, -1), len(tables), how.tile)
    y_tiles, label_tiles = tiles.gather(y), tiles.gather(labels)
    # `shard_map` hands each of `ways` devices its share of the gradient, and adds up what they return for an argument
    # that they all hold. A slice of a table is one device's own: it takes the whole gradient.
    shares = {False: tiles.gather(upstream)}
    if any(how.split):
        shares[True] = tiles.gather(jax.lax.psum(upstream, TENSOR))
    d_y, d_tables = jnp.zeros(y_tiles.shape), []
    for g, table in enumerate(tables):
        weights, share = table.astype(how.dtype), shares[how.split[g]]

        def body(i, carry, g=g, weights=weights, share=share):
            d_y, d_table = carry
            rows = y_tiles[i].astype(how.dtype)
            z = z_tiles[i][:, None]
            d_logits = (1 + 2 * how.z_loss * z) * jnp.exp(_dot(rows, weights, 1, 1) - z)
            at, here = _own(how, g, weights, label_tiles[i])
            d_logits -= how.smoothing / _size(how, g, weights)
            d_logits = d_logits.at[jnp.arange(len(at)), at].add(jnp.where(here, how.smoothing - 1.0, 0.0))
            d_logits = (d_logits * share[i][:, None]).astype(how.dtype)
            return d_y.at[i].set(_dot(d_logits, weights, 1, 0)), d_table + _dot(d_logits, rows, 0, 0)

        stop = tiles.first[g] + tiles.count[g]
        with tiles.rounds:
            d_y, d_table = jax.lax.fori_loop(tiles.first[g], stop, body, (d_y, jnp.zeros(table.shape)))
        d_tables.append(d_table.astype(table.dtype))
    none = [np.zeros(a.shape, jax.dtypes.float0) for a in (vocab, labels, valid)]
    return tiles.scatter(d_y).astype(y.dtype), tuple(d_tables), *none


_grouped.defvjp(_forward, _backward)


def _own(how, g, weights, labels):
    """(row of each label in this device's part of table g, whether it is there)."""
    if not how.split[g]:
        return labels, jnp.ones(labels.shape, bool)
    at = labels - jax.lax.axis_index(TENSOR) * len(weights)
    here = (at >= 0) & (at < len(weights))
    return jnp.where(here, at, 0), here


def _size(how, g, weights) -> int:
    return len(weights) * (how.ways if how.split[g] else 1)


def _dot(a, b, a_axis, b_axis):
    return jax.lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)
