"""Nested embeddings around any contrastive objective: their first d numbers, and the network's first l layers, alone.

Matryoshka representation learning (arXiv 2205.13147); with `layers`, 2D Matryoshka (arXiv 2402.14776).
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from pretrain.frozen import Files
from pretrain.models.encdec import unit
from pretrain.objectives.base import Context, is_cross_example
from pretrain.ops.keys import named


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
    coef: float = 1.0

    def __post_init__(self):
        if not is_cross_example(self.base) or isinstance(self.base, Objective):
            raise ValueError("objectives.matryoshka.base: must be an objective that compares examples, and not nested")
        if not self.widths or min(self.widths) < 1 or len(set(self.widths)) < len(self.widths):
            raise ValueError(f"objectives.matryoshka.widths={self.widths}: list positive widths, each once")
        if self.align < 0 or not self.align_temperature > 0 or (self.align and not self.layers):
            raise ValueError(
                f"objectives.matryoshka.align={self.align}: must not be negative, needs layers=True, and "
                f"align_temperature={self.align_temperature} must be positive"
            )

    @property
    def embedded(self):
        return self.base.embedded

    @property
    def tokens_per_example(self) -> int:
        return self.base.tokens_per_example

    def init(self, key) -> dict:
        return self.base.init(key)

    def view(self, batch, keys):
        """The base's, and what a step draws, the same for every example of the global batch."""
        out = {"base": self.base.view(batch, keys)}
        if self.layers:
            k_width, k_layer = (named(keys[0], "matryoshka", name) for name in ("width", "layer"))
            width = jnp.asarray(self.widths)[jax.random.randint(k_width, (), 0, len(self.widths))]
            out |= {
                "width": jnp.broadcast_to(width.astype(jnp.float32), keys.shape),  # z must be differentiable
                "early": jnp.broadcast_to(jax.random.uniform(k_layer), keys.shape),
            }
        return out

    def weights(self, view):
        base = self.base.weights(view["base"])
        out = {f"{k}@{v}": w for v in self._variants for k, w in base.items()}
        if self.align:
            out["align"] = sum(t.valid.any(1).sum() for t in view["base"]["tokens"].values()).astype(jnp.float32)
        return out

    def embed(self, model, own, view, keys):
        early = view["early"][0] if self.layers else None
        z = self.base.embed(model, own, view["base"], keys, **({"early": early} if self.layers else {}))
        out = {"z": z}
        return out | {"width": view["width"]} if self.layers else out

    def pair(self, own, z):
        full = z["z"]
        whole = next(iter(full.values()))["z"].shape[-1]
        if max(self.widths) > whole:
            raise ValueError(
                f"objectives.matryoshka.widths={self.widths}: embeddings have model.embed_dim={whole} numbers"
            )
        if self.layers:
            cut = jnp.arange(whole) < z["width"][0]
            early = {n: v | {"z": v["early"]} for n, v in full.items()}
            versions = {"full": full, "width": _cut(full, cut), "layer": early, "both": _cut(early, cut)}
        else:
            versions = {"full": full} | {w: _cut(full, jnp.arange(whole) < w) for w in self.widths}
        out = {f"{k}@{v}": total for v, zs in versions.items() for k, total in self.base.pair(own, zs).items()}
        if self.align:
            out["align"] = sum(self._align(v) for v in full.values())
        return out

    def share(self, name) -> float:
        if name == "align":
            return self.align
        return self.base.share(name.rpartition("@")[0]) / len(self._variants)

    @property
    def _variants(self):
        return ("full", "width", "layer", "both") if self.layers else ("full", *self.widths)

    def _align(self, v):
        last = jax.nn.log_softmax(jax.lax.stop_gradient(v["z"]) / self.align_temperature)
        early = jax.nn.log_softmax(v["early"] / self.align_temperature)
        kl = (jnp.exp(last) * (last - early)).sum(-1) * self.align_temperature
        return jnp.where(v["present"] > 0, kl, 0.0).sum()


def _cut(z: dict, kept):
    return {n: v | {"z": unit(v["z"] * kept)} for n, v in z.items()}
