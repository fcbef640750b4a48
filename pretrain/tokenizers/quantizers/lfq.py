"""Lookup-free quantization (MAGVIT-v2, arXiv 2310.05737, section 3.1): the signs of d numbers are d bits of an id.

Nothing is looked up and nothing dies, but nothing either makes an encoder use all codes: the objective `code_entropy`
does.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrain.tokenizers.quantizers.base import Place, Quantized, code_counts, commitment, straight_through


@dataclasses.dataclass(frozen=True)
class Config:
    """width: d, of 2^d codes."""

    width: int = 10

    def __post_init__(self):
        if not 1 <= self.width <= 24:
            raise ValueError(f"lfq.width={self.width}: must be from 1 to 24, of 2^width codes")


class Quantizer(nnx.Module):
    """Codes of ± 1; the first channel is the least significant bit, as in the paper."""

    books = 1

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.width, self.vocab_size = config.width, 2**config.width

    def __call__(self, z, keys=None) -> Quantized:
        z = z.astype(jnp.float32)
        codes = jnp.where(z > 0, 1.0, -1.0)
        return Quantized(straight_through(codes, z), self.to_ids(codes), {"commitment": commitment(codes, z)})

    def to_ids(self, codes):
        """codes `[…, d]` → ids `[…]`."""
        return ((codes > 0) * (1 << np.arange(self.width))).sum(-1).astype(jnp.int32)

    def to_codes(self, ids):
        return jnp.where(ids[..., None] >> np.arange(self.width) & 1, 1.0, -1.0)

    def log_likelihoods(self, z, temperature: float) -> list:
        """Of a bit +1 the logit is 4 z / temperature."""
        logit = 4.0 / temperature * z.astype(jnp.float32)
        both = jnp.stack([jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit)], -1)
        return [both[:, i] for i in range(self.width)]

    def statistics(self, z, ids, place: Place) -> dict:
        return {"counts": code_counts(ids, place.rank >= 0, 1, self.vocab_size)}

    def update(self, statistics) -> dict:
        return {}
