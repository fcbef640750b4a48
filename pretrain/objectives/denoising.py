"""Denoising of images beside their own codes: what trains tokenizers with a diffusion decoder (arXiv 2206.00386)."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.objectives import reconstruction
from pretrain.objectives.reconstruction import DISTANCES
from pretrain.ops.keys import named


@dataclasses.dataclass(frozen=True)
class Objective(reconstruction.Objective):
    """Mean over images of a distance between what the decoder gives for x_t and what it should (`diffusion.Config`).

    t is uniform over the steps and ε normal, of each image its own (arXiv 2006.11239, equation 14, which is `l2` of a
    prediction of ε).
    terms: {term: its weight}, of `l1`, `l2`, `smooth_l1`, and `commitment` of quantizers that have it. In training also
    the metrics `usage` and `perplexity` of codes, as in `reconstruction`.
    """

    terms: dict = dataclasses.field(default_factory=lambda: {"l2": 1.0})

    @property
    def known(self) -> tuple[str, ...]:
        return tuple(DISTANCES)

    def weights(self, view):
        return dict.fromkeys(self.terms, (view["place"].rank >= 0).sum().astype(jnp.float32))

    def totals(self, model, own, view, keys, *, train):
        if not hasattr(model, "predict"):
            raise ValueError("objectives.denoising: the decoder is no diffusion: set model.model='tokenizers.divae'")
        return super().totals(model, own, view, keys, train=train)

    def compare(self, model, own, raw, codes, keys) -> dict:
        """{term: `[B]`} at a time and with noise that are drawn from the keys."""
        x0, d = model.target(raw), model.diffusion
        t, epsilon = jax.vmap(lambda k: draw(k, x0.shape[1:], d.steps))(keys)
        error = model.predict(d.add_noise(x0, epsilon, t), t, codes) - d.target(x0, epsilon, t)
        return {n: distance(error).mean((1, 2, 3)) for n, distance in DISTANCES.items()}


def draw(key, shape, steps: int):
    """(t, ε `shape`) of one image."""
    t, epsilon = (named(key, name) for name in ("time", "noise"))
    return jax.random.randint(t, (), 0, steps), jax.random.normal(epsilon, shape)
