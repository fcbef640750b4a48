"""Nested embeddings around any contrastive objective: their first d numbers, and the network's first l layers, alone.

Matryoshka representation learning (arXiv 2205.13147); with `layers`, 2D Matryoshka (arXiv 2402.14776).
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from pretrain.frozen import Files
from pretrain.models.passes import Leaf
from pretrain.models.stream import unit
from pretrain.objectives.base import BATCH, Context
from pretrain.objectives.corruptions import Numbers
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Objective:
    """Mean of the base objective's loss over the full embeddings and their truncations, each normalised again.

    base: the objective around which this is, as in `config.objectives`: dict(objective="contrastive", …).
    widths: truncations. Without `layers` all of them count at every step. With `layers`, a step draws one width and one
    layer before the last: full, width, layer, and both (section 3 there).
    align: coefficient of KL(softmax(z / t) ‖ softmax(z_l / t)) over the numbers of an embedding z, that of the last
    layer, and z_l, that of the drawn one; no gradient reaches z. align_temperature: t.
    """

    context: Context
    base: Annotated[Any, Files("pretrain.objectives", "Objective", "objective")]
    widths: tuple[int, ...]
    layers: bool = False
    align: float = 0.0
    align_temperature: float = 0.3
    coef: Coefficient = 1.0

    def __post_init__(self):
        if not self.base.embedded or self.base.scope != BATCH or isinstance(self.base, Objective):
            raise ValueError(
                "objectives.matryoshka.base: must be an objective that compares embeddings of examples, and not nested"
            )
        if set(self.base.ends) != set(self.base.embedded):
            raise ValueError("objectives.matryoshka.base.branches: leave them out: modalities alone are nested")
        if not self.widths or min(self.widths) < 1 or len(set(self.widths)) < len(self.widths):
            raise ValueError(f"objectives.matryoshka.widths={self.widths}: list positive widths, each once")
        if self.align < 0 or not self.align_temperature > 0 or (self.align and not self.layers):
            raise ValueError(
                f"objectives.matryoshka.align={self.align}: must not be negative, needs layers=True, and "
                f"align_temperature={self.align_temperature} must be positive"
            )

    scope = BATCH

    @property
    def embedded(self):
        return self.base.embedded

    @property
    def tokens_per_example(self) -> int:
        return self.base.tokens_per_example

    def init(self, key) -> dict:
        return self.base.init(key)

    def shown(self, modality: str) -> Leaf:
        return self.base.shown(modality)

    def present(self, data: dict) -> dict:
        return self.base.present(data)

    def passes(self, train: bool) -> dict:
        """The base's; with layers also the embeddings of an earlier one, and what a step draws, the same for all."""
        out = self.base.passes(train)
        if self.layers:
            early, network = Leaf(Numbers(("matryoshka", "layer"), shared=True)), self.context.network
            out |= {"width": Leaf(Numbers(("matryoshka", "width"), shared=True))}
            # What has no layers has only the last.
            out |= {("early", m): network.embedding(m, self.base.shown(m), early) or out["z", m] for m in self.embedded}
        return out

    def weights(self, data):
        base = self.base.weights(data)
        out = {f"{k}@{v}": w for v in self._variants for k, w in base.items()}
        if self.align:
            out["align"] = sum(p.sum() for p in self.base.present(data).values()).astype(jnp.float32)
        return out

    def totals(self, params, outputs, *, train, run):
        full = {m: outputs["z", m] for m in self.embedded}
        whole = next(iter(full.values())).shape[-1]
        if max(self.widths) > whole:
            raise ValueError(
                f"objectives.matryoshka.widths={self.widths}: embeddings have model.embed_dim={whole} numbers"
            )
        if self.layers:
            width = jnp.asarray(self.widths)[(outputs["width"][0] * len(self.widths)).astype(jnp.int32)]
            cut, early = jnp.arange(whole) < width, {m: outputs["early", m] for m in self.embedded}
            versions = {"full": full, "width": _cut(full, cut), "layer": early, "both": _cut(early, cut)}
        else:
            versions = {"full": full} | {w: _cut(full, jnp.arange(whole) < w) for w in self.widths}
        out = {}
        for name, zs in versions.items():
            replaced = outputs | {("z", m): z for m, z in zs.items()}
            totals = self.base.totals(params, replaced, train=train, run=run)
            out |= {f"{k}@{name}": total for k, total in totals.items()}
        if self.align:
            present = self.base.present(outputs)
            out["align"] = sum(self._align(full[m], early[m], present[m]) for m in self.embedded)
        return out

    def loss_weight(self, name) -> float:
        if name == "align":
            return self.align
        return self.base.loss_weight(name.rpartition("@")[0]) / len(self._variants)

    @property
    def _variants(self):
        return ("full", "width", "layer", "both") if self.layers else ("full", *self.widths)

    def _align(self, z, early, present):
        last = jax.nn.log_softmax(jax.lax.stop_gradient(z) / self.align_temperature)
        early = jax.nn.log_softmax(early / self.align_temperature)
        kl = (jnp.exp(last) * (last - early)).sum(-1) * self.align_temperature
        return jnp.where(present, kl, 0.0).sum()


def _cut(z: dict, kept):
    return {m: unit(v * kept) for m, v in z.items()}
