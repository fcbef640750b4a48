"""A whole tokenizer as one part (`pretrain.tokenizers`)."""

import dataclasses
from typing import Any

from pretrain.models.parts import base


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """network: the settings of a tokenizer, such as `tokenizers.autoencoder.Config`."""

    reads: tuple[str, ...] = ()
    network: Any = None

    gives = base.CODES

    @property
    def denoises(self) -> bool:
        """Whether its decoder is a diffusion model."""
        return self.network.denoises

    def make(self, build, rngs):
        return self.network.make(build.modalities, rngs)
