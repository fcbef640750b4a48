"""A moving average of what learns: momentum teachers, and the weights that a run is evaluated by."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

SCHEDULES = ("warm", "constant", "cosine")


@dataclasses.dataclass(frozen=True)
class Reference:
    """a ← μ a + (1 − μ) θ after every step, from the parameters θ after it; it starts as a copy of θ.

    schedule: of μ: `warm`, min(momentum, (1 + t) / (10 + t)), so that a short run's average is not that of its initial
    weights; `constant`; `cosine`, 1 − (1 − momentum) (cos(π t / T) + 1) / 2, which ends at 1 (BYOL, arXiv 2006.07733,
    section 3.2).
    """

    workdir: ClassVar[str] = ""  # it follows what learns

    momentum: float = 0.999
    schedule: str = "warm"

    def __post_init__(self):
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: must be at least 0 and below 1")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r}: must be one of {', '.join(SCHEDULES)}")

    def update(self, reference, params, step, steps: int):
        """The reference after a step, from the parameters after it; step: its number, from 0, of `steps`."""
        if self.schedule == "warm":
            momentum = jnp.minimum(self.momentum, (1 + step) / (10 + step))
        elif self.schedule == "constant":
            momentum = self.momentum
        else:
            momentum = 1 - (1 - self.momentum) * (jnp.cos(jnp.pi * step / steps) + 1) / 2
        return jax.tree.map(lambda a, p: a + (1 - momentum) * (p - a), reference, params)
