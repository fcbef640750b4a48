"""Prototypes of regions follow what is seen there: a moving average after every step, and no loss."""

import dataclasses

import jax.numpy as jnp

from pretrain.models.parts import regions
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Objective:
    """P_r ← m P_r + (1 − m) Sᵀ F / Σ S after every step, F the tokens of the batch's examples of region r and S how
    much of each goes to each prototype (SkySense, arXiv 2312.10115); without gradient. What nothing went to stays.

    part: a `parts.regions`, of the network. momentum: m.
    """

    context: Context
    part: str
    momentum: float = 0.99
    coef: Coefficient = 1.0

    scope, embedded, tokens_per_example = EXAMPLE, (), 0

    def __post_init__(self):
        where, network = "objectives.region_prototypes", self.context.network
        if not 0 <= self.momentum < 1:
            raise ValueError(f"{where}.momentum={self.momentum}: must be at least 0 and below 1")
        if network.parts and not isinstance(network.need(self.part, f"{where}.part"), regions.Config):
            raise ValueError(f"{where}.part={self.part!r}: it has no prototypes of regions: name a part='regions'")

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        if not train:
            return {}
        network = self.context.network
        below = network.over(self.part, {m: network.shown(m) for m in network.read_by(self.part)})
        return {"assigned": network.call(self.part, *below.args, assigned=True)}

    def weights(self, data) -> dict:
        return {}

    def totals(self, params, outputs, *, train, run) -> dict:
        if not train:
            return {}
        found, c = outputs["assigned"], self.context.network[self.part]
        into = lambda x: jnp.zeros((c.regions, *x.shape[1:])).at[found["region"]].add(x)
        return {"statistics": {name: into(found[name]) for name in ("sums", "counts")}}

    def loss_weight(self, name) -> float:
        return 1.0

    def update(self, model, params, statistics):
        table, counts = params[self.part]["table"], statistics["counts"][..., None]
        mean = statistics["sums"] / jnp.maximum(counts, 1e-9)
        moved = jnp.where(counts > 0, self.momentum * table + (1 - self.momentum) * mean, table)
        return params | {self.part: params[self.part] | {"table": moved}}

    def summary(self, statistics) -> dict:
        return {}
