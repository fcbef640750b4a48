"""The own column, among those of the row's own side too (M3EL, arXiv 2412.10440)."""

import dataclasses

import jax.numpy as jnp

from pretrain.objectives.edges import Pairs
from pretrain.objectives.targets import base
from pretrain.ops.pairs import dot


@dataclasses.dataclass(frozen=True)
class Target(base.Target):
    """Behind the columns b of a row of a stand all other rows of a, as negatives; so for rows of b.

    weight: what the logits of these are multiplied by. own: what becomes of the row's product with itself: `zero`, a
    negative whose logit is 0, as in M3EL's release, or `drop`, none.
    """

    weight: float = 0.8
    own: str = "zero"

    embeddings = True

    def check(self, objective):
        if not self.weight > 0:
            objective.fail("target.weight", "must be positive; leave the target out for none of them", self.weight)
        if self.own not in ("zero", "drop"):
            objective.fail("target.own", "must be one of zero, drop", self.own)

    def passes(self, objective, train: bool) -> dict:
        """The embeddings that the objective compares; what learns gets their gradient from here, too."""
        return {name: node for (kind, name), node in Pairs.passes(objective, train).items() if kind == "z"}

    def sides(self, objective, outputs, edge, present):
        a, b = (outputs[n].astype(jnp.float32) for n in (edge.a, edge.b))
        return (a, b), (b, a)

    def __call__(self, candidates, scale, rows, columns):
        own, same = candidates.weights > 0, scale * self.weight * dot(rows[0], columns[1])
        return candidates.beside(jnp.where(own, 0.0, same), candidates.counted & (~own | (self.own == "zero")))
