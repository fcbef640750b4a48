"""The similarities that another model finds (Mod-X, arXiv 2305.07437)."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.objectives.edges import embeddings_of
from pretrain.objectives.targets import base
from pretrain.ops.pairs import dot


@dataclasses.dataclass(frozen=True)
class Target(base.Target):
    """softmax(scale · x yᵀ) of the other model's embeddings x, y.

    model: its name in `config.references` or `config.models`. scale: of its cosines; Mod-X leaves them as they are.
    correct: only rows, of either direction, whose own column it finds among all; one that it does not is replaced by
      the learner's own, without gradient: there it teaches nothing (`cognition_align` of its release).
    """

    model: str
    scale: float = 1.0
    correct: bool = False

    def check(self, objective):
        if not self.scale > 0:
            objective.fail("target.scale", "must be positive", self.scale)
        embeddings_of(self.model, objective, "target.model")

    def passes(self, objective, train: bool) -> dict:
        found = embeddings_of(self.model, objective, "target.model")
        return {("teacher", m): node for m, node in found.items()}

    def sides(self, objective, outputs, edge, present):
        return tuple(jax.lax.stop_gradient(outputs["teacher", m]).astype(jnp.float32) for m in (edge.a, edge.b))

    def __call__(self, candidates, scale, rows, columns):
        theirs = self.scale * dot(rows, columns)
        if self.correct:
            best = jnp.where(candidates.counted, theirs, -jnp.inf).max(1)
            right = jnp.where(candidates.weights > 0, theirs, -jnp.inf).max(1) == best
            theirs = jnp.where(right[:, None], theirs, candidates.logits)
        return candidates.toward(theirs)
