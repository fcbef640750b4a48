"""A tokenizer whose decoder is a diffusion model that reads the codes (arXiv 2206.00386; 4M's, arXiv 2312.06647)."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.tokenizers import autoencoder
from pretrain.tokenizers.diffusion import Config as DiffusionConfig
from pretrain.tokenizers.diffusion import ddim


@dataclasses.dataclass(frozen=True)
class Config(autoencoder.Config):
    """decoder: a network of x_t, t and codes, `unet` or `dit`; diffusion: its noise, what it predicts, and sampling."""

    diffusion: DiffusionConfig = DiffusionConfig()

    denoises = True

    def make(self, modalities, rngs):
        return Model(self, modalities, rngs)


class Model(autoencoder.Model):
    """The decoder reads the codes themselves: there is no layer between."""

    def __init__(self, config: Config, modalities, rngs):
        super().__init__(config, modalities, rngs)
        if not modalities[0].pictures or len(self.shape) != 3 or self.n_classes:
            raise ValueError(f"a diffusion decoder gives images; {modalities[0].name!r} holds none")
        if self.decoder.dim != self.quantizer.width:
            raise ValueError(
                f"config.model.decoder.dim={self.decoder.dim}: reads codes, whose width is {self.quantizer.width}"
            )
        self.from_code, self.diffusion = None, config.diffusion

    def reconstruct(self, raw, codes, noise: dict):
        """noise: of `denoising.Noise`. (what the network gives for the noised images, what it should give)."""
        x0, d = self.target(raw), self.diffusion
        t = (noise["time"].reshape(-1) * d.steps).astype(jnp.int32)
        epsilon = noise["noise"].reshape(x0.shape)
        return self.predict(d.add_noise(x0, epsilon, t), t, codes), d.target(x0, epsilon, t)

    def predict(self, x_t, t, codes):
        """What the network gives for images `[B, H, W, C]` noised to the times t `[B]`."""
        return self.decoder(x_t, t, codes * self.code_scale)

    def decode(self, codes, seed: int = 0):
        """codes `[B, N, d]` → images `[B, H, W, C]`, sampled.

        All start from the same noise, which `seed` draws: what an image becomes does not depend on its batch.
        """
        noise = jax.random.normal(jax.random.key(seed), self.decoder.shape)
        noise = jnp.broadcast_to(noise, (len(codes), *noise.shape))
        return ddim(lambda x, t: self.predict(x, t, codes), self.diffusion, noise)
