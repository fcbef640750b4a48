"""Rows of several groups in tiles of one group each, so that each is multiplied by its own group's matrix alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrain.ops.counting import running_count

TILE = 128


class Tiles(NamedTuple):
    """Where rows lie when every group has tiles of its own. first, count `[groups]`: its tiles.

    row `[tiles, tile]`: which row stands there (past the last: none); slot `[rows]`: where each one stands.
    """

    first: jax.Array
    count: jax.Array
    row: jax.Array
    slot: jax.Array

    @property
    def group(self):
        """The group of each tile, `[tiles]`; the last one's of those that hold nothing."""
        ends = self.first + self.count
        return jnp.minimum((jnp.arange(len(self.row))[:, None] >= ends).sum(1), len(ends) - 1)

    @property
    def rounds(self):
        """The scope of a loop over the tiles of one group. Its length only the data tell: plans (`tools.plan`) take the
        one that it names, of groups that all have as many rows."""
        return jax.named_scope(f"rounds_{-(-len(self.slot) // (self.row.shape[1] * len(self.first)))}")

    def gather(self, x):
        """Rows `[rows, …]` → `[tiles, tile, …]`, zeros where there is none."""
        return x.at[self.row].get(mode="fill", fill_value=0)

    def scatter(self, x):
        """The inverse; zeros of rows of no group."""
        return x.reshape(-1, *x.shape[2:]).at[self.slot].get(mode="fill", fill_value=0)


def arrange(group, groups: int, tile: int = TILE) -> Tiles:
    """group int `[rows]`: of each row; -1 for none, and then it has no place."""
    rows = len(group)
    tile = min(tile, rows)
    tiles = -(-rows // tile) + groups  # every group ends in a tile of its own
    mine = group == jnp.arange(groups)[:, None]
    rank = running_count(mine)  # not by sorting, which takes a TPU seconds to compile
    count = -(-rank[:, -1] // tile)
    first = jnp.cumsum(count) - count
    slot = jnp.where(mine, first[:, None] * tile + rank - 1, 0).sum(0)
    slot = jnp.where(group >= 0, slot, tiles * tile)  # rows of no group are never computed
    row = jnp.full(tiles * tile, rows, jnp.int32).at[slot].set(jnp.arange(rows, dtype=jnp.int32), mode="drop")
    return Tiles(first, count, row.reshape(tiles, tile), slot)
