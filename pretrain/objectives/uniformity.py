"""Alignment and uniformity, which beside a contrastive loss close the gap between modalities (arXiv 2405.18570)."""

import dataclasses

import jax.numpy as jnp

from pretrain.objectives.edges import Pairs
from pretrain.ops.pairs import log_mean_potential


@dataclasses.dataclass(frozen=True)
class Objective(Pairs):
    """Per edge align · L_A + uniform · L_U + cross · L_X (section 4 there), averaged over edges by weight.

    L_A is the mean of ‖a_i − b_i‖², L_U the mean over both modalities of log mean_{j≠k} exp(−2 ‖m_j − m_k‖²), and L_X
    the same between them, log mean_{j≠k} exp(−2 ‖a_j − b_k‖²). The paper adds L_U and L_A, or all three, to a softmax
    loss whose temperature is fixed at 0.01. block: as in `contrastive`.
    """

    align: float = 1.0
    uniform: float = 1.0
    cross: float = 0.0
    block: int = 0

    def __post_init__(self):
        super().__post_init__()
        for key in ("align", "uniform", "cross"):
            if getattr(self, key) < 0:
                self.fail(key, "a coefficient must not be negative")
        if not self.align + self.uniform + self.cross > 0:
            self.fail("align", "all three coefficients are 0; leave the objective out")

    def weights(self, data):
        """Alignment is a mean over pairs; the others are logarithms of means already, of two examples or more."""
        counts = super().weights(data)
        return {
            f"{kind} {e}": n if kind == "align" else (n >= 2).astype(jnp.float32)
            for e, n in counts.items()
            for kind in self._kinds
        }

    def totals(self, params, outputs, *, train, run):
        out, present = {}, self.present(outputs)
        for e in self.edges:
            a, b, both = outputs["z", e.a], outputs["z", e.b], present[e.a] & present[e.b]
            for kind in self._kinds:
                out[f"{kind} {e.name}"] = self._term(kind, a, b, both)
        return out

    def _term(self, kind, a, b, present):
        if kind == "align":
            return jnp.where(present, jnp.square(a - b).sum(-1), 0.0).sum()
        if kind == "cross":
            return log_mean_potential(a, b, present, block=self.block)
        return 0.5 * sum(log_mean_potential(x, x, present, block=self.block) for x in (a, b))

    def loss_weight(self, name):
        kind, _, edge = name.partition(" ")
        return getattr(self, kind) * super().loss_weight(edge)

    @property
    def _kinds(self):
        return [k for k in ("align", "uniform", "cross") if getattr(self, k) > 0]
