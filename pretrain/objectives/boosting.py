"""Deep Boosting Learning: a model surpasses an anchor by margins that the anchor sets (arXiv 2404.18114)."""

import dataclasses

import jax.numpy as jnp

from pretrain.objectives.anchored import Anchored
from pretrain.ops.pairs import absolute_losses, triplet_losses

FORMS = ("abs", "rel")


@dataclasses.dataclass(frozen=True)
class Objective(Anchored):
    """Hinges on d_ij = s_ij − t_ij, of rows and of columns: cosine similarities s of the global batch, t an anchor's.

    form: `rel`, the greatest relu(margin + d_ij − d_ii) of j ≠ i: the positive's distance from a negative surpasses the
    anchor's. With t = 0 that is VSE++'s loss. `abs`, relu(gamma · margin − d_ii) + the greatest relu((1 − gamma) ·
    margin + d_ij): each similarity surpasses the anchor's.
    margin, gamma, coef: β · the margin of the base, γ and α of the release (github.com/Paranioar/DBL, `loss.py`), where
    this stands beside the model's own ranking loss (`triplet` of the hardest negatives, reduction `sum`).
    The hardest negative is unstable from fresh weights, and an average that starts as the model's copy makes all alike:
    let coef rise from 0.
    block: as in `contrastive`.
    """

    form: str = "abs"
    margin: float = 0.2
    gamma: float = 0.5
    block: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.form not in FORMS:
            self.fail("form", f"must be one of {', '.join(FORMS)}")
        if not self.margin > 0:
            self.fail("margin", "must be positive")
        if not 0 <= self.gamma <= 1:
            self.fail("gamma", "must be at least 0 and at most 1")

    def beside(self, a, b, x, y, present):
        # The differences of similarities are similarities themselves, of rows side by side.
        p, q = (jnp.concatenate([v.astype(jnp.float32) for v in pair], 1) for pair in ((a, -x), (b, y)))
        if self.form == "rel":
            losses = triplet_losses(p, q, present, self.margin, hardest=True, block=self.block)
        else:
            hinges = self.gamma * self.margin, (1 - self.gamma) * self.margin
            losses = absolute_losses(p, q, present, *hinges, block=self.block)
        return sum(losses).sum()
