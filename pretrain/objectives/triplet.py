"""The classical ranking loss of images and texts: a hinge on negatives (arXiv 1601.03478; VSE++, arXiv 1707.05612)."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.passes import Leaf
from pretrain.objectives.contrastive import DIRECTIONS
from pretrain.objectives.corruptions import Numbers
from pretrain.objectives.edges import Reduced
from pretrain.ops.pairs import dot, mean_losses, nearness, triplet_losses

NEGATIVES = ("all", "sum", "hardest", "mean", "others", "random")


def near(a, b):
    """Rows of a and of b by their distances (`nearness`)."""
    return nearness(dot(a, b))


@dataclasses.dataclass(frozen=True)
class Objective(Reduced):
    """relu(margin + s_ij − s_ii), of rows and of columns, s the cosine similarities of the global batch.

    negatives: the mean over `all` j, their `sum`, the `hardest`, or one at `random`, drawn anew every step. From fresh
    weights the hardest is unstable: start such a run from one that was trained on `all` (`config.load`), or with `mean`
    in its place, one hinge on the mean similarity of a row, its own among them (Structure-CLIP's release, arXiv
    2305.06152): two of these objectives, whose `coef` change at one step. `others` is that mean without the own, which
    stands beside the hardest in M3PT's release (arXiv 2306.10079).
    distance: relu(margin + d_ii − d_ij) of distances d = √(2 − 2s) (M3PT).
    reduction: VSE++ has the `sum` over the batch; `pairs` with negatives="sum" is Merkx and Frank's mean over all B²
    entries, the diagonal's zeros among them (arXiv 1903.11393): 1/B of the loss and of its gradient.
    directions: the `sum` of both, their `mean`, `forward` with negatives b alone (anchor a), `backward` with negatives
    a alone.
    block: as in `contrastive`; one random negative needs none.
    """

    margin: float = 0.2
    negatives: str = "all"
    directions: str = "sum"
    distance: bool = False
    block: int = 0

    reductions = (*Reduced.reductions, "pairs")

    def __post_init__(self):
        super().__post_init__()
        if self.reduction == "pairs" and self.negatives != "sum":
            self.fail("reduction", 'divides by all pairs of a batch: set negatives="sum"')
        for key, allowed in (("negatives", NEGATIVES), ("directions", DIRECTIONS)):
            if getattr(self, key) not in allowed:
                self.fail(key, f"must be one of {', '.join(allowed)}")
        if not self.margin > 0:
            self.fail("margin", "must be positive")

    def passes(self, train: bool) -> dict:
        """As in Embedding; for `random`, numbers `[B]` whose order says who is whose negative: alike on all hosts."""
        drawn = {"draw": Leaf(Numbers(("triplet", "negative")))} if self.negatives == "random" else {}
        return super().passes(train) | drawn

    def totals(self, params, outputs, *, train, run):
        if self.negatives != "random":
            return super().totals(params, outputs, train=train, run=run)
        present = self.present(outputs)
        return {
            e.name: self._random(
                outputs["z", e.a], outputs["z", e.b], present[e.a] & present[e.b], outputs["draw"]
            )
            for e in self.edges
        }  # fmt: skip

    def compare(self, params, a, b, present):
        how = dict(block=self.block, score=near if self.distance else dot)
        if self.negatives in ("mean", "others"):
            return self._joined(*mean_losses(a, b, present, self.margin, own=self.negatives == "mean", **how))
        losses = triplet_losses(a, b, present, self.margin, hardest=self.negatives == "hardest", **how)
        many = jnp.maximum(present.sum() - 1, 0) if self.negatives == "sum" else 1
        return many * self._joined(*losses)

    def _random(self, a, b, present, draw):
        """In the order of the draws every present example's negative is the next one; the last one's is the first."""
        order = jnp.argsort(jnp.where(present, draw, jnp.inf))
        after = jnp.argsort(order) + 1
        negative = order[jnp.where(after < present.sum(), after, 0)]
        x, y = (jnp.where(present[:, None], v.astype(jnp.float32), 0.0) for v in (a, b))
        like = lambda p, q: nearness((p * q).sum(1)) if self.distance else (p * q).sum(1)
        ways = (like(p, q[negative]) - like(p, q) for p, q in ((x, y), (y, x)))
        counted = present & (present.sum() > 1)
        return self._joined(*(jnp.where(counted, jax.nn.relu(self.margin + way), 0.0) for way in ways))

    def _joined(self, forward, backward):
        w_forward, w_backward = DIRECTIONS[self.directions]
        return (w_forward * forward + w_backward * backward).sum()
