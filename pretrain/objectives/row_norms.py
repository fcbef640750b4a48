"""Rows of a table that keep the length of the others: a projection after every step, and no loss."""

import dataclasses

import jax.numpy as jnp

from pretrain.objectives.base import EXAMPLE, Context
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Objective:
    """After every step row r of the table becomes r · n / ‖r‖, n the mean length of the rows that are not named (GILL,
    arXiv 2305.17216: its release).

    part: whose `table` it is. rows: their ids, which a rule of `config.train` trains: of others nothing changes.
    """

    context: Context
    part: str
    rows: tuple[int, ...]
    coef: Coefficient = 1.0

    scope, embedded, tokens_per_example = EXAMPLE, (), 0

    def __post_init__(self):
        network, where = self.context.network, "objectives.row_norms"
        if not network.parts:
            return
        part = network.need(self.part, f"{where}.part")
        texts = {m.name: m for m in self.context.modalities if m.text}
        if part.joint or not part.reads or part.reads[0] not in texts:
            raise ValueError(f"{where}.part={self.part!r}: it has no table of one vocabulary: name what embeds a text")
        size = texts[part.reads[0]].vocab_size
        if not self.rows or not 0 <= min(self.rows) <= max(self.rows) < size or len(set(self.rows)) == size:
            raise ValueError(f"{where}.rows={self.rows}: name ids of 0…{size - 1}, and not all of them")

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        return {}

    def weights(self, data) -> dict:
        return {}

    def totals(self, params, outputs, *, train, run) -> dict:
        return {"statistics": {}} if train else {}

    def loss_weight(self, name) -> float:
        return 1.0

    def update(self, model, params, statistics):
        table, rows = params[self.part]["table"], jnp.asarray(self.rows)
        norms = jnp.sqrt(jnp.square(table).sum(-1))
        others = jnp.ones(len(table), bool).at[rows].set(False)
        length = jnp.where(others, norms, 0.0).sum() / others.sum()
        scaled = table[rows] * (length / jnp.maximum(norms[rows], 1e-12))[:, None]
        return params | {self.part: params[self.part] | {"table": table.at[rows].set(scaled)}}

    def summary(self, statistics) -> dict:
        return {}
