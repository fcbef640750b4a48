"""Softmax InfoNCE between listed pairs of modalities (CLIP, arXiv 2103.00020; ALIGN, arXiv 2102.05918)."""

import dataclasses
import math

import jax.numpy as jnp

from pretrain.objectives.edges import Edge, Pairs  # noqa: F401 (an edge is part of this objective's config)
from pretrain.ops.pairs import softmax_losses
from pretrain.parameters import undecayed

LEARN = ("log", "linear", "fixed")
DIRECTIONS = {"mean": (0.5, 0.5), "sum": (1.0, 1.0), "forward": (1.0, 0.0), "backward": (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Objective(Pairs):
    """Cross-entropies of the rows and of the columns of scale · z_a z_bᵀ over the global batch.

    temperature: what the scale starts from, 1 / temperature. learn: `log` learns log scale, as CLIP does; `linear`
    learns the temperature itself, as ALIGN does; `fixed`.
    max_scale: what a learned scale is clamped to; 0 for no clamp, as in ALIGN.
    directions: `mean` of a→b and b→a, their `sum` (ALIGN), `forward` a→b or `backward` b→a alone.
    block: 0 holds all similarities; else that many rows at a time, recomputed in the backward pass.
    """

    temperature: float = 0.07
    learn: str = "log"
    max_scale: float = 100.0
    directions: str = "mean"
    label_smoothing: float = 0.0
    block: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature > 0:
            self.fail("temperature", "must be positive")
        if self.learn not in LEARN:
            self.fail("learn", f"must be one of {', '.join(LEARN)}")
        if self.directions not in DIRECTIONS:
            self.fail("directions", f"must be one of {', '.join(DIRECTIONS)}")
        if not 0 <= self.label_smoothing < 1:
            self.fail("label_smoothing", "must be at least 0 and below 1")
        if self.max_scale < 0 or self.block < 0:
            self.fail("max_scale" if self.max_scale < 0 else "block", "must not be negative; 0 is none")

    def init(self, key) -> dict:
        if self.learn == "log":
            return {"log_scale": undecayed(jnp.float32(math.log(1 / self.temperature)))}
        return {"temperature": undecayed(jnp.float32(self.temperature))} if self.learn == "linear" else {}

    def scale(self, own):
        """What similarities are multiplied by."""
        if self.learn == "fixed":
            return jnp.float32(1 / self.temperature)
        if self.learn == "log":
            limit = math.log(self.max_scale) if self.max_scale else jnp.inf
            return jnp.exp(jnp.minimum(own["log_scale"], limit))
        # Guarded: a temperature that training drives to zero would end the run.
        scale = 1 / jnp.maximum(own["temperature"], 1e-4)
        return jnp.minimum(scale, self.max_scale) if self.max_scale else scale

    def compare(self, own, a, b, present):
        forward, backward = softmax_losses(
            a, b, present, self.scale(own), smoothing=self.label_smoothing, block=self.block
        )
        w_forward, w_backward = DIRECTIONS[self.directions]
        return (w_forward * forward + w_backward * backward).sum()
