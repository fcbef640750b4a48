"""Denoising of images beside their own codes: what trains tokenizers with a diffusion decoder (arXiv 2206.00386)."""

import dataclasses

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.passes import Leaf, call
from pretrain.objectives import reconstruction
from pretrain.objectives.corruptions import Raw
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

    def __post_init__(self):
        super().__post_init__()
        network = self.context.network
        if network.parts and not network["autoencoder"].denoises:
            raise ValueError("objectives.denoising: the decoder is no diffusion: set model.model='tokenizers.divae'")

    def passes(self, train: bool) -> dict:
        raw, noise = Leaf(Raw(self.context.modalities)), Leaf(Noise(self.context.modalities))
        return {"raw": raw, "out": call("autoencoder", raw, noise, learns=train)}

    def weights(self, data):
        return dict.fromkeys(self.terms, (data["raw"]["place"].rank >= 0).sum().astype(jnp.float32))

    def distances(self, params, made, target) -> dict:
        return {n: distance(made - target).mean((1, 2, 3)) for n, distance in DISTANCES.items()}


@dataclasses.dataclass(frozen=True)
class Noise:
    """Of pictures → {"noise", ε `[B, modalities, H, W, C]`, "time" `[B, modalities]` in [0, 1)}."""

    modalities: tuple[Modality, ...]

    def __call__(self, batch, keys) -> dict:
        names, shape = [m.name for m in self.modalities], self.modalities[0].shape
        each = [named(keys, "denoising", name) for name in names]
        normal = jax.vmap(lambda key: jax.random.normal(key, shape))
        return {
            "time": jnp.stack([jax.vmap(jax.random.uniform)(named(k, "time")) for k in each], 1),
            "noise": jnp.stack([normal(named(k, "noise")) for k in each], 1),
        }
