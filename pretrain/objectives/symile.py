"""Symile: contrastive learning of n modalities at once, by their multilinear inner product (arXiv 2411.01053)."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from pretrain.models.passes import Leaf
from pretrain.objectives.corruptions import Numbers
from pretrain.objectives.edges import Embedding
from pretrain.ops.keys import named
from pretrain.ops.pairs import symile_losses, symile_losses_all
from pretrain.parameters import undecayed

NEGATIVES = ("n", "n2")
MISSING = ("drop", "learn")


@dataclasses.dataclass(frozen=True)
class Objective(Embedding):
    """Mean over anchors m of the cross-entropy of scale · ⟨z_m, Π_{k≠m} z_k⟩ of an example's own tuple (section 3.2).

    group: the modalities. negatives: `n`, tuples of the batch whose other modalities are shuffled independently, or
    `n2`, all pairs of the two others (three modalities only).
    missing: `drop` leaves out examples that lack one of the group; `learn` puts a learned vector in the place of what
    they lack (section 5.3), as long as they have two.
    temperature: the scale starts at embed_dim^((n − 2) / 2) / temperature, since the product of n random unit vectors
    is that much smaller than that of two. It is learned as its logarithm, without a clamp. block: as in `contrastive`.
    """

    group: tuple[str, ...]
    temperature: float = 0.07
    negatives: str = "n"
    missing: str = "drop"
    block: int = 0

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.group)) < len(self.group) or len(self.group) < 2:
            self.fail("group", "list at least two modalities, each once")
        if self.negatives not in NEGATIVES or (self.negatives == "n2" and len(self.group) != 3):
            self.fail("negatives", f"must be one of {', '.join(NEGATIVES)}, and n2 needs a group of three")
        if self.missing not in MISSING:
            self.fail("missing", f"must be one of {', '.join(MISSING)}")
        if not self.temperature > 0:
            self.fail("temperature", "must be positive")

    @property
    def embedded(self):
        return self.group

    def init(self, key) -> dict:
        scale = self.context.network.embed_dim ** ((len(self.group) - 2) / 2) / self.temperature
        own = {"log_scale": undecayed(jnp.float32(math.log(scale)))}
        if self.missing == "learn":
            fresh = lambda m: jax.random.normal(named(key, m), (self.context.network.embed_dim,))
            own["missing"] = {m: undecayed(fresh(m)) for m in self.group}
        return own

    def passes(self, train: bool) -> dict:
        """As in Embedding, and random numbers `[B]` a modality whose order is its shuffling: the same on all hosts."""
        return super().passes(train) | {("draw", m): Leaf(Numbers(("shuffle", m))) for m in self.group}

    def weights(self, data):
        count = self._counted(self.present(data)).sum().astype(jnp.float32)
        return dict.fromkeys(self.group, count)

    def totals(self, params, outputs, *, train, run):
        has = self.present(outputs)
        counted, scale = self._counted(has), jnp.exp(params["log_scale"])
        x = {m: outputs["z", m] for m in self.group}
        if self.missing == "learn":
            unit = {m: v / jnp.linalg.norm(v) for m, v in params["missing"].items()}
            x = {m: jnp.where(has[m][:, None], x[m], unit[m]) for m in self.group}
        orders = {m: jnp.argsort(outputs["draw", m]) for m in self.group}
        totals = {}
        for m in self.group:
            others = [k for k in self.group if k != m]
            if self.negatives == "n2":
                losses = symile_losses_all(x[m], *(x[k] for k in others), counted, scale, block=self.block)
            else:
                order = [orders[k] for k in others]
                losses = symile_losses(x[m], [x[k] for k in others], order, counted, scale, block=self.block)
            totals[m] = losses.sum()
        return totals

    def loss_weight(self, name) -> float:
        return 1 / len(self.group)

    def _counted(self, has):
        """Which examples take part, bool `[B]`."""
        count = sum(h.astype(jnp.int32) for h in has.values())
        return count >= (2 if self.missing == "learn" else len(self.group))
