"""Weights of words that few examples should share: a penalty on embeddings over a vocabulary."""

import dataclasses

import jax.numpy as jnp

from pretrain.objectives.edges import Embedding

PENALTIES = ("flops", "l1")


@dataclasses.dataclass(frozen=True)
class Objective(Embedding):
    """Of every modality, and added up: `flops`, Σ_v (mean_i |s_iv|)², which is dear of words that many examples have
    (arXiv 2004.05665; the overuse penalty of LexVLA, arXiv 2407.17827), or `l1`, mean_i Σ_v |s_iv|.

    s: the weights of the global batch, which `parts.lexical` makes; normalise: of unit length, as they are compared.
    `active` is how many numbers of an example are not zero, a metric.
    """

    modalities: tuple[str, ...]
    penalty: str = "flops"
    normalise: bool = False

    def __post_init__(self):
        if self.penalty not in PENALTIES:
            self.fail("penalty", f"must be one of {', '.join(PENALTIES)}")
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            self.fail("modalities", "name at least one, and each once")
        super().__post_init__()

    @property
    def embedded(self):
        return self.modalities

    def embedding(self, name, leaf):
        return self.network.embedding(name, leaf, raw=not self.normalise or None)

    def init(self, key) -> dict:
        return {}

    def weights(self, data):
        """What falls on words is of means over examples already."""
        counts = {m: there.sum().astype(jnp.float32) for m, there in self.present(data).items()}
        own = {m: jnp.minimum(n, 1.0) if self.penalty == "flops" else n for m, n in counts.items()}
        return own | {f"active {m}": n for m, n in counts.items()}

    def totals(self, params, outputs, *, train, run):
        out = {}
        for m, there in self.present(outputs).items():
            s = jnp.where(there[:, None], jnp.abs(outputs["z", m].astype(jnp.float32)), 0.0)
            out[f"active {m}"] = (s > 0).sum().astype(jnp.float32)
            mean = s.sum(0) / jnp.maximum(there.sum(), 1)
            out[m] = jnp.square(mean).sum() if self.penalty == "flops" else s.sum()
        return out

    def loss_weight(self, name) -> float:
        return 0.0 if name.startswith("active ") else 1.0
