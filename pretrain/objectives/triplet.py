"""The classical ranking loss of images and texts: a hinge on negatives of both directions (VSE++, arXiv 1707.05612)."""

import dataclasses

from pretrain.objectives.edges import Pairs
from pretrain.ops.pairs import triplet_losses

NEGATIVES = ("all", "hardest")


@dataclasses.dataclass(frozen=True)
class Objective(Pairs):
    """relu(margin + s_ij − s_ii), of rows and of columns, s the cosine similarities of the global batch.

    negatives: the mean over `all` j, or the `hardest`. From fresh weights the hardest is unstable: start such a run
    from one that was trained on `all` (config.init).
    block: as in `contrastive`.
    """

    margin: float = 0.2
    negatives: str = "all"
    block: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.negatives not in NEGATIVES:
            self.fail("negatives", f"must be one of {', '.join(NEGATIVES)}")
        if not self.margin > 0:
            self.fail("margin", "must be positive")

    def compare(self, own, a, b, present):
        hardest = self.negatives == "hardest"
        forward, backward = triplet_losses(a, b, present, self.margin, hardest=hardest, block=self.block)
        return (forward + backward).sum()
