"""Denoising of images beside their own codes: what trains tokenizers with a diffusion decoder (arXiv 2206.00386)."""

import dataclasses

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.objectives.reconstruction import DISTANCES, raw_view, usage
from pretrain.tokenizers.quantizers.base import Place


@dataclasses.dataclass(frozen=True)
class Objective:
    """Mean over images of a distance between what the decoder gives for x_t and what it should (`diffusion.Config`).

    t is uniform over the steps and ε normal, of each image its own (arXiv 2006.11239, equation 14, which is `l2` of a
    prediction of ε).
    terms: {term: its weight}, of `l1`, `l2`, `smooth_l1`, and `commitment` of quantizers that have it. In training also
    the metrics `usage` and `perplexity` of codes, as in `reconstruction`.
    """

    modalities: tuple[Modality, ...]
    terms: dict = dataclasses.field(default_factory=lambda: {"l2": 1.0})
    coef: float = 1.0

    def __post_init__(self):
        known = (*DISTANCES, "commitment")
        for name, weight in self.terms.items():
            if name not in known or not isinstance(weight, (int, float)) or weight < 0:
                raise ValueError(
                    f"objectives.denoising.terms: {name}={weight!r}: must be one of {', '.join(known)}, and 0 or more"
                )
        if not set(self.terms) & set(DISTANCES):
            raise ValueError(
                f"objectives.denoising.terms={dict(self.terms)}: nothing to predict; name one of {', '.join(DISTANCES)}"
            )

    @property
    def tokens_per_example(self) -> int:
        return 0  # it trains on pixels

    def init(self, key) -> dict:
        return {}

    def view(self, batch, keys):
        return raw_view(self.modalities, batch, keys)

    def weights(self, view):
        return dict.fromkeys(self.terms, (view["place"].rank >= 0).sum().astype(jnp.float32))

    def totals(self, model, own, view, keys, *, train):
        if not hasattr(model, "predict"):
            raise ValueError("objectives.denoising: the decoder is no diffusion: set model.model='tokenizers.divae'")
        raw, (rank, count, key) = view["raw"], view["place"]
        each = jax.vmap(lambda k: jax.random.split(k, raw.shape[1]))(keys).reshape(-1)
        raw, place = raw.reshape(-1, *raw.shape[2:]), Place(rank.reshape(-1), count[0], key[0])
        z = model.latents(raw)
        quantized = model.quantizer(z, each if train else None)
        x0, d = model.target(raw), model.diffusion
        t, epsilon = jax.vmap(lambda k: draw(k, x0.shape[1:], d.steps))(each)
        error = model.predict(d.add_noise(x0, epsilon, t), t, quantized.codes) - d.target(x0, epsilon, t)
        found = quantized.losses | {n: distance(error).mean((1, 2, 3)) for n, distance in DISTANCES.items()}
        lacking = sorted(set(self.terms) - set(found))
        if lacking:
            raise ValueError(f"objectives.denoising.terms: the quantizer has no {', '.join(lacking)}: take it out")
        out = {n: jnp.where(place.rank >= 0, found[n], 0.0).sum() for n in self.terms}
        return out | ({"statistics": model.quantizer.statistics(z, quantized.ids, place)} if train else {})

    def share(self, name) -> float:
        return float(self.terms.get(name, 0.0))

    def update(self, model, params, statistics):
        new = model.quantizer.update(statistics)
        return params | {"quantizer": params["quantizer"] | new} if new else params

    def summary(self, statistics) -> dict:
        return usage(statistics["counts"])


def draw(key, shape, steps: int):
    """(t, ε `shape`) of one image."""
    t, epsilon = (jax.random.fold_in(key, n) for n in (6000, 6001))
    return jax.random.randint(t, (), 0, steps), jax.random.normal(epsilon, shape)
