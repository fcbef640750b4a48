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

    books, averaged = 1, ()

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

    def statistics(self, z, ids, place: Place) -> dict:
        return {"counts": code_counts(ids, place.rank >= 0, 1, self.vocab_size)}

    def update(self, statistics) -> dict:
        return {}


def entropies(z, weight, temperature: float, group: int):
    """(mean over vectors of H(p), H of the mean p) in nats, of p(code | z) = softmax(−‖z − code‖² / temperature).

    z `[n, d]`, weight `[n]` of each vector. Bits are independent given z, p(+1) = σ(4 z / temperature), so that the
    first entropy is exactly a sum over bits. The second is exact over each `group` of bits, and a sum over groups: an
    upper bound, where all 2^d codes would be too many (as in BSQ, arXiv 2406.07548, section 3.2, with groups of one).
    """
    logit = 4.0 / temperature * z.astype(jnp.float32)
    log_on, log_off = jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)
    bits = -(jnp.exp(log_on) * log_on + jnp.exp(log_off) * log_off).sum(-1)
    total, entropy = jnp.maximum(weight.sum(), 1e-9), 0.0
    for start in range(0, z.shape[1], group):
        on, off = log_on[:, start : start + group], log_off[:, start : start + group]
        chosen = np.arange(2 ** on.shape[1])[:, None] >> np.arange(on.shape[1]) & 1
        p = jnp.exp(on @ chosen.T + off @ (1 - chosen).T)
        mean = (weight[:, None] * p).sum(0) / total
        entropy += -(mean * jnp.log(jnp.maximum(mean, 1e-12))).sum()
    return (weight * bits).sum() / total, entropy
