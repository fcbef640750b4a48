"""Pairwise sigmoid loss between listed pairs of modalities (SigLIP, arXiv 2303.15343, section 3.2)."""

import dataclasses
import math

import jax.numpy as jnp

from pretrain.objectives.edges import Pairs
from pretrain.ops.pairs import sigmoid_losses
from pretrain.parameters import undecayed


@dataclasses.dataclass(frozen=True)
class Objective(Pairs):
    """Mean over examples i of Σ_j −log σ(y_ij (t · a_i·b_j + c)); y_ij = 1 for one example, −1 for two.

    t = exp(log_scale) starts at 1 / temperature and c, the bias, at `bias`; both are learned.
    chunk: 0 holds all similarities; else they pass in a ring over the devices, that many rows at a time, and no
    device ever holds a matrix of the whole batch.
    """

    temperature: float = 0.1
    bias: float = -10.0
    chunk: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature > 0:
            self.fail("temperature", "must be positive")
        if self.chunk < 0:
            self.fail("chunk", "must not be negative; 0 is none")

    def init(self, key) -> dict:
        scale, bias = jnp.float32(math.log(1 / self.temperature)), jnp.float32(self.bias)
        return {"log_scale": undecayed(scale), "bias": undecayed(bias)}

    def compare(self, params, a, b, present):
        scale, bias = jnp.exp(params["log_scale"]), params["bias"]
        return sigmoid_losses(a, b, present, scale, bias, chunk=self.chunk).sum()
