"""Modalities of an example belong to the same prototypes: each predicts what the other was assigned to."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.passes import Leaf
from pretrain.models.stream import unit
from pretrain.objectives.corruptions import Begun
from pretrain.objectives.edges import Edge, Pairs  # noqa: F401 (an edge is part of this objective's config)
from pretrain.ops.assignment import sinkhorn
from pretrain.ops.pairs import dot
from pretrain.parameters import undecayed


@dataclasses.dataclass(frozen=True)
class Objective(Pairs):
    """½ (−Σ_k q_a log p_b − Σ_k q_b log p_a) of every edge, the mean over examples: swapped prediction (SwAV, arXiv
    2006.09882, section 3.1; of two modalities MGCA, arXiv 2210.06044, section 3.4).

    p = softmax(z cᵀ / temperature), c the prototypes of unit length, one set for all edges; q = sinkhorn(z cᵀ /
    epsilon) over the global batch, without gradient.
    prototypes: how many. iterations: of Sinkhorn's algorithm; 0 for the softmax alone, under which all may go to one.
    frozen_steps: in so many first steps prototypes stay where they start.
    """

    prototypes: int = 500
    temperature: float = 0.2
    epsilon: float = 0.05
    iterations: int = 3
    frozen_steps: int = 0

    def __post_init__(self):
        super().__post_init__()
        for key in ("temperature", "epsilon"):
            if not getattr(self, key) > 0:
                self.fail(key, "must be positive")
        for key in ("iterations", "frozen_steps"):
            if getattr(self, key) < 0:
                self.fail(key, "must not be negative")
        if self.prototypes < 2:
            self.fail("prototypes", "of fewer than two everything is of the same: nothing is learned")

    def init(self, key) -> dict:
        fresh = jax.random.normal(key, (self.prototypes, self.network.embed_dim))
        return {"prototypes": undecayed(unit(fresh))}

    def passes(self, train: bool) -> dict:
        return super().passes(train) | {"begun": Leaf(Begun(self.frozen_steps))}

    def totals(self, params, outputs, *, train, run):
        c = params["prototypes"]
        c = jnp.where(outputs["begun"][0], c, jax.lax.stop_gradient(c))
        return super().totals({"prototypes": unit(c)}, outputs, train=train, run=run)

    def compare(self, params, a, b, present):
        s, t = (dot(jnp.where(present[:, None], z.astype(jnp.float32), 0.0), params["prototypes"]) for z in (a, b))
        assigned = (sinkhorn(x / self.epsilon, present, self.iterations) for x in (s, t))
        log_p = (jax.nn.log_softmax(x / self.temperature, axis=1) for x in (t, s))
        return -sum((q * p).sum() for q, p in zip(assigned, log_p)) / 2
