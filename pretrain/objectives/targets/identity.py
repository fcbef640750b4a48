"""A row's own column (CLIP, arXiv 2103.00020)."""

import dataclasses

from pretrain.objectives.targets import base


@dataclasses.dataclass(frozen=True)
class Target(base.Target):
    """All of the weight on the same example; every other one is a negative."""
