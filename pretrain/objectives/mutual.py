"""Deep mutual learning: a model follows what its peers think of the batch (arXiv 1706.00384)."""

import dataclasses

from pretrain.objectives.anchored import Anchored
from pretrain.ops.pairs import dot, kl, target_losses


@dataclasses.dataclass(frozen=True)
class Objective(Anchored):
    """KL(softmax(scale · t) ‖ softmax(scale · s)) of rows plus that of columns, s the cosine similarities of the global
    batch, t an anchor's (section 2.2 there, of classes; of matched pairs in Paranioar/DBL, `loss.py`, whose scale it
    is). Each peer has one, with the others for anchors; of a teacher alone it is distillation.
    """

    scale: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        if not self.scale > 0:
            self.fail("scale", "must be positive")

    def beside(self, a, b, x, y, present):
        return sum(target_losses(a, b, present, self.scale, _follow, (x, y), divergence=kl)).sum()


def _follow(candidates, scale, x, y):
    return candidates.toward(scale * dot(x, y))
