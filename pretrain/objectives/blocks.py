"""Pictures of which blocks of patches are masked, drawn on the device (BEiT, arXiv 2106.08254, algorithm 1)."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.tokens import Shown, dense_rows, whole
from pretrain.objectives.masking import rank_by_counting, rank_by_sorting
from pretrain.ops.keys import named


@dataclasses.dataclass(frozen=True)
class Blocks:
    """count: patches that are masked of every picture, exactly.

    smallest: the least area from which a block is drawn, in patches; the greatest is what is still to be masked.
    aspect: its height over its width lies between this and the inverse. attempts: how often a block is drawn anew that
    does not fit, before what is left is masked patch by patch (as in the release of EVA, arXiv 2211.07636).
    """

    count: int
    smallest: int = 4
    aspect: float = 0.3
    attempts: int = 10


@dataclasses.dataclass(frozen=True)
class Blocked:
    """→ {"shown": Shown, whose masked patches have an id past the last row; "chosen" `[B, L]`: which these are}."""

    name: str
    how: Blocks
    modalities: tuple[Modality, ...]

    def __call__(self, batch, keys) -> dict:
        spec = next(m for m in self.modalities if m.name == self.name)
        tokens = whole(batch, self.name, self.modalities)
        draw = jax.vmap(lambda key: draw_blocks(key, spec.grid, self.how).reshape(-1))
        chosen = draw(named(keys, "blocks", self.name)) & tokens.valid
        ids = jnp.where(chosen, spec.length, tokens.ids)
        return {"shown": Shown(tokens._replace(ids=ids), dense_rows(batch, [spec])), "chosen": chosen}


def draw_blocks(key, grid: tuple[int, int], how: Blocks):
    """Which patches of a grid `[H, W]` are masked, `how.count` of them.

    Block after block: the area is uniform from `smallest` to what is left, the logarithm of the aspect uniform, the
    place too. A block is taken that is smaller than the grid on both sides and masks something new, but no more than is
    left; blocks may overlap.
    """
    (high, wide), blocks = grid, named(key, "blocks")
    row, column = jnp.arange(high)[:, None], jnp.arange(wide)

    def draw(state):
        mask, failed, number = state
        left = how.count - mask.sum()
        area, aspect, top, start = jax.random.uniform(jax.random.fold_in(blocks, number), (4,))
        area = how.smallest + area * (left - how.smallest)
        aspect = jnp.exp((1 - 2 * aspect) * math.log(how.aspect))
        h, w = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
        top, start = jnp.floor(top * (high - h + 1)), jnp.floor(start * (wide - w + 1))
        block = (row >= top) & (row < top + h) & (column >= start) & (column < start + w)
        new = (block & ~mask).sum()
        fits = (h < high) & (w < wide) & (new > 0) & (new <= left)
        return mask | (block & fits), jnp.where(fits, 0, failed + 1), number + 1

    def wanted(state):
        mask, failed, _ = state
        return (failed < how.attempts) & (mask.sum() < how.count)

    mask, *_ = jax.lax.while_loop(wanted, draw, (jnp.zeros(grid, bool), 0, 0))
    rest = jnp.where(mask, -1.0, jax.random.uniform(named(key, "rest"), grid)).reshape(-1)
    rank = jax.lax.platform_dependent(rest, cpu=rank_by_sorting, default=rank_by_counting)
    return (rank < how.count).reshape(grid)
