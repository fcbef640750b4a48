"""Cross-entropy of tokens that belong to different vocabularies, each against its own table only."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from pretrain.ops.matmul import matmul
from pretrain.sharding import BATCH, current_mesh

TILE = 256


def dense_nll(y, tables, vocab, labels, valid, *, dtype=jnp.float32):
    """Reference: the logits of every token over every table, the other vocabularies masked out.

    y `[B, M, D]`, tables list of `[V, D]`, vocab and labels int `[B, M]`, valid bool `[B, M]`. Returns `[B, M]`.
    """
    table = jnp.concatenate(tables)
    owner = jnp.concatenate([jnp.full(len(t), i) for i, t in enumerate(tables)])
    start = jnp.cumsum(jnp.asarray([0] + [len(t) for t in tables[:-1]]))
    logits = matmul(y, table.T, dtype)
    logits = jnp.where(owner == vocab[..., None], logits, -jnp.inf)
    own = jnp.take_along_axis(logits, (start[vocab] + labels)[..., None], axis=-1)[..., 0]
    return jnp.where(valid, jax.nn.logsumexp(logits, axis=-1) - own, 0.0)


def grouped_nll(y, tables, vocab, labels, valid, *, dtype=jnp.float32, tile=TILE):
    """As `dense_nll`, but the tokens are sorted by vocabulary and run in tiles of one vocabulary at a time.

    Cost follows each token's own vocabulary; memory is one tile's logits, recomputed in the backward pass. Under a
    mesh every device sorts and runs its own tokens.
    """

    def local(y, vocab, labels, valid, *tables):
        flat = [a.reshape(-1, *a.shape[2:]) for a in (y, vocab, labels, valid)]
        return _grouped(*flat, tables, dtype, tile).reshape(vocab.shape)

    mesh = current_mesh()
    if mesh is None:
        return local(y, vocab, labels, valid, *tables)
    batch = P(BATCH)
    specs = (batch,) * 4 + (P(),) * len(tables)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=batch, check_vma=False)(
        y, vocab, labels, valid, *tables
    )


def _grouped(y, vocab, labels, valid, tables, dtype, tile):
    count, groups = len(y), len(tables)
    tile = min(tile, count)
    tiles = -(-count // tile) + groups  # every group ends in a tile of its own
    group = jnp.where(valid, vocab, groups)  # empty slots form a last group that is never computed

    order = jnp.argsort(group, stable=True)
    size = jnp.bincount(group, length=groups + 1)
    begin = jnp.cumsum(size) - size
    group_tiles = -(-size[:groups] // tile)
    first_tile = jnp.cumsum(group_tiles) - group_tiles
    tile_group = jnp.searchsorted(jnp.cumsum(group_tiles), jnp.arange(tiles), side="right")

    # slot[t]: where token t lies in the tiled layout; empty tokens fall off its end and are dropped.
    rank = jnp.arange(count) - begin[group[order]]
    slot_sorted = jnp.append(first_tile, tiles)[group[order]] * tile + rank
    slot = jnp.zeros(count, jnp.int32).at[order].set(slot_sorted.astype(jnp.int32))
    token = jnp.full(tiles * tile, count, jnp.int32).at[slot].set(jnp.arange(count, dtype=jnp.int32), mode="drop")

    y_tiles = y.at[token].get(mode="fill", fill_value=0).reshape(tiles, tile, -1)
    label_tiles = labels.at[token].get(mode="fill", fill_value=0).reshape(tiles, tile)

    def against(table):
        def run(y, labels):
            logits = matmul(y, table.T, dtype)
            own = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
            return jax.nn.logsumexp(logits, axis=-1) - own

        return run

    branches = [against(t) for t in tables] + [lambda y, labels: jnp.zeros(tile)]

    @jax.checkpoint
    def body(_, args):
        which, y, labels = args
        return None, jax.lax.switch(which, branches, y, labels)

    _, nll = jax.lax.scan(body, None, (tile_group, y_tiles, label_tiles))
    return nll.reshape(-1).at[slot].get(mode="fill", fill_value=0)
