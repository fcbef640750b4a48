"""Softmax InfoNCE between listed pairs of modalities (CLIP, arXiv 2103.00020; ALIGN, arXiv 2102.05918), and what else
compares the rows and columns of their similarities with a target (`targets`)."""

import dataclasses
import functools
import math
from typing import Annotated, Any

import jax.numpy as jnp

from pretrain.frozen import Files
from pretrain.objectives.edges import Edge, Reduced  # noqa: F401 (an edge is part of this objective's config)
from pretrain.objectives.targets import identity
from pretrain.ops.pairs import cross_entropy, dot, kl, reverse_kl, target_losses
from pretrain.parameters import undecayed

LEARN = ("log", "linear", "raw", "fixed")
DIRECTIONS = {"mean": (0.5, 0.5), "sum": (1.0, 1.0), "forward": (1.0, 0.0), "backward": (0.0, 1.0)}
DIVERGENCES = ("cross_entropy", "kl", "reverse_kl")


@dataclasses.dataclass(frozen=True)
class Objective(Reduced):
    """The divergence of softmax(scale · z_a z_bᵀ), of rows and of columns over the global batch, from a target.

    target: a file of `targets` and its keys; the own column if none is named. divergence: `cross_entropy`, `kl` from
    the target, or `reverse_kl` to it, whose weights have `epsilon` added.
    temperature: what the scale starts from, 1 / temperature. learn: `log` learns log scale, as CLIP does; `linear`
    learns the temperature itself, as ALIGN does; `raw` the scale itself, as GAP's release does; `fixed`.
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
    target: Annotated[Any, Files("pretrain.objectives.targets", "Target", "target")] = identity.Target()
    divergence: str = "cross_entropy"
    epsilon: float = 1e-8

    score = staticmethod(dot)  # of some of a and some of b

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature > 0:
            self.fail("temperature", "must be positive")
        for key, allowed in (("learn", LEARN), ("directions", DIRECTIONS), ("divergence", DIVERGENCES)):
            if getattr(self, key) not in allowed:
                self.fail(key, f"must be one of {', '.join(allowed)}")
        if not 0 <= self.label_smoothing < 1:
            self.fail("label_smoothing", "must be at least 0 and below 1")
        if self.label_smoothing and self.divergence != "cross_entropy":
            self.fail("label_smoothing", "smooths the target of divergence='cross_entropy' alone")
        if self.max_scale < 0 or self.block < 0:
            self.fail("max_scale" if self.max_scale < 0 else "block", "must not be negative; 0 is none")
        if not self.epsilon > 0:
            self.fail("epsilon", "must be positive")
        if self.target.embeddings and self.score is not dot:
            name = type(self.target).__module__.rpartition(".")[2]
            self.fail("target", "compares embeddings, and this objective does not: take objective='contrastive'", name)
        self.target.check(self)

    def init(self, key) -> dict:
        start = {"log": math.log(1 / self.temperature), "linear": self.temperature, "raw": 1 / self.temperature}
        name = {"log": "log_scale", "linear": "temperature", "raw": "scale"}
        return {name[self.learn]: undecayed(jnp.float32(start[self.learn]))} if self.learn in start else {}

    def scale(self, params):
        """What similarities are multiplied by."""
        if self.learn == "fixed":
            return jnp.float32(1 / self.temperature)
        if self.learn == "log":
            limit = math.log(self.max_scale) if self.max_scale else jnp.inf
            return jnp.exp(jnp.minimum(params["log_scale"], limit))
        # Guarded: a temperature that training drives to zero would end the run.
        scale = params["scale"] if self.learn == "raw" else 1 / jnp.maximum(params["temperature"], 1e-4)
        return jnp.minimum(scale, self.max_scale) if self.max_scale else scale

    def passes(self, train: bool) -> dict:
        own = {("target", name): node for name, node in self.target.passes(self, train).items()}
        return super().passes(train) | own

    def totals(self, params, outputs, *, train, run):
        out, present = {}, self.present(outputs)
        read = {key[1]: value for key, value in outputs.items() if key[0] == "target"}
        for e in self.edges:
            both = present[e.a] & present[e.b]
            sides = self.target.sides(self, read, e, both)
            out[e.name] = self.compare(params, outputs["z", e.a], outputs["z", e.b], both, sides)
        return out

    def compare(self, params, a, b, present, sides=((), ())):
        """sides: what the target reads of a and of b."""
        forward, backward = target_losses(
            a, b, present, self.scale(params), self.target, sides,
            divergence=self._diverges, block=self.block, score=self.score,
        )  # fmt: skip
        w_forward, w_backward = DIRECTIONS[self.directions]
        return (w_forward * forward + w_backward * backward).sum()

    @property
    def _diverges(self):
        return {
            "cross_entropy": functools.partial(cross_entropy, smoothing=self.label_smoothing),
            "kl": kl,
            "reverse_kl": functools.partial(reverse_kl, epsilon=self.epsilon),
        }[self.divergence]
