"""Autoencoding of images through a quantizer: the objective that trains tokenizers."""

import dataclasses

import jax.numpy as jnp

from data_pipeline.spec import Modality


@dataclasses.dataclass(frozen=True)
class Objective:
    """Mean over images of |x̂ − x| (l1) or (x̂ − x)² (l2), pixels scaled to [-1, 1]. FSQ needs no codebook loss."""

    modalities: tuple[Modality, ...]
    loss: str = "l1"
    coef: float = 1.0

    def __post_init__(self):
        if self.loss not in ("l1", "l2"):
            raise ValueError(f"objectives.reconstruction.loss={self.loss!r}: must be l1 or l2")

    @property
    def tokens_per_example(self) -> int:
        return 0  # it trains on pixels

    def init(self, key) -> dict:
        return {}

    def view(self, batch, keys):
        """(pixels uint8 `[B, modalities, H, W, C]`, valid `[B, modalities]`): an example's images stay together."""
        images = [batch[m.name] for m in self.modalities]
        return jnp.stack([i["pixels"] for i in images], 1), jnp.stack([i["valid"] for i in images], 1)

    def weights(self, view):
        _, valid = view
        return {self.loss: valid.sum().astype(jnp.float32)}

    def totals(self, model, own, view, keys, *, train):
        pixels, valid = view
        pixels = pixels.reshape(-1, *pixels.shape[2:])
        error = model.decode(model.encode(pixels)) - (pixels.astype(jnp.float32) / 127.5 - 1.0)
        error = jnp.abs(error) if self.loss == "l1" else jnp.square(error)
        return {self.loss: jnp.where(valid.reshape(-1), error.mean((1, 2, 3)), 0.0).sum()}

    def share(self, name) -> float:
        return 1.0
