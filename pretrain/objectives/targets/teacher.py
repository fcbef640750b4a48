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
    of: a modality whose examples it compares among themselves, for rows and columns alike: the relations of a teacher
      (relational distillation, arXiv 1904.05068, section 3), such as those of texts for pairs of picture and text.
    """

    model: str
    scale: float = 1.0
    correct: bool = False
    of: str = ""

    def check(self, objective):
        if not self.scale > 0:
            objective.fail("target.scale", "must be positive", self.scale)
        found = embeddings_of(self.model, objective, "target.model")
        if self.of and self.of not in found:
            objective.fail("target.of", f"must be one of {', '.join(found)}, which the objective embeds", self.of)

    def passes(self, objective, train: bool) -> dict:
        found = embeddings_of(self.model, objective, "target.model")
        return {("teacher", m): node for m, node in found.items()}

    def sides(self, objective, outputs, edge, present):
        return tuple(jax.lax.stop_gradient(outputs["teacher", m]).astype(jnp.float32) for m in self._sides(edge))

    def __call__(self, candidates, scale, rows, columns):
        theirs = self.scale * dot(rows, columns)
        if self.correct:
            best = jnp.where(candidates.counted, theirs, -jnp.inf).max(1)
            right = jnp.where(candidates.weights > 0, theirs, -jnp.inf).max(1) == best
            theirs = jnp.where(right[:, None], theirs, candidates.logits)
        return candidates.toward(theirs)

    def _sides(self, edge):
        return (self.of, self.of) if self.of else (edge.a, edge.b)
