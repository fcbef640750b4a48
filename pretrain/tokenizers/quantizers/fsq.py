"""Finite scalar quantization (arXiv 2309.15505): bound each of d channels, round it to one of L_i levels.

The codebook is the grid of all levels: nothing is learned, and no code can die. Where pictures are few and alike, as
emoji are, an encoder keeps to a part of the grid all the same, unless the objective `code_entropy` draws it out. Ids
are mixed-radix numbers, the first channel the least significant.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrain.tokenizers.quantizers.base import Quantized, code_counts


@dataclasses.dataclass(frozen=True)
class Config:
    """levels: one number a channel; their product is the vocabulary."""

    levels: tuple[int, ...] = (8, 5, 5, 5)

    def __post_init__(self):
        if not self.levels or min(self.levels) < 3:
            raise ValueError(f"fsq.levels={self.levels}: every channel needs at least 3 levels")


class Quantizer(nnx.Module):
    """Codes lie in [-1, 1]."""

    books = 1

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.levels, self.width, self.vocab_size = config.levels, len(config.levels), codebook_size(config.levels)

    def __call__(self, z, keys=None) -> Quantized:
        codes = quantize(z, self.levels)
        return Quantized(codes, to_ids(jax.lax.stop_gradient(codes), self.levels), {})

    def to_codes(self, ids):
        return to_codes(ids, self.levels)

    def log_likelihoods(self, z, temperature: float) -> list:
        """Distances are those of the bounded values to whole numbers."""
        values = bound(z.astype(jnp.float32), self.levels)
        far = [values[:, i, None] - (np.arange(n) - n // 2) for i, n in enumerate(self.levels)]
        return [jax.nn.log_softmax(-jnp.square(x) / temperature) for x in far]

    def statistics(self, z, ids, place) -> dict:
        return {"counts": code_counts(ids, place.rank >= 0, 1, self.vocab_size)}

    def update(self, statistics) -> dict:
        return {}


def codebook_size(levels) -> int:
    return int(np.prod(levels))


def bound(z, levels):
    """z `[…, d]` → values whose rounding gives L_i integers (arXiv 2309.15505, appendix A.1).

    The paper's listing shifts even levels by tan where arctanh, used here, puts z = 0 exactly on the boundary of the
    two middle levels.
    """
    levels = jnp.asarray(levels, jnp.float32)
    half = (levels - 1) * (1 + 1e-3) / 2
    offset = jnp.where(levels % 2 == 0, 0.5, 0.0)
    return jnp.tanh(z + jnp.arctanh(offset / half)) * half - offset


def quantize(z, levels):
    """z `[…, d]` → codes `[…, d]` in [-1, 1]; the gradient passes the rounding straight through."""
    bounded = bound(z.astype(jnp.float32), levels)
    rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
    return rounded / _half_width(levels)


def to_ids(codes, levels):
    """codes `[…, d]` in [-1, 1] → ids `[…]`."""
    half = _half_width(levels)
    digits = jnp.round(codes * half + half).astype(jnp.int32)
    return (digits * _basis(levels)).sum(-1)


def to_codes(ids, levels):
    """ids `[…]` → codes `[…, d]`: the inverse of `to_ids`."""
    half = _half_width(levels)
    digits = ids[..., None] // _basis(levels) % jnp.asarray(levels)
    return (digits - half) / half


def _half_width(levels):
    return jnp.asarray([n // 2 for n in levels], jnp.float32)


def _basis(levels):
    return jnp.asarray(np.cumprod([1, *levels[:-1]]), jnp.int32)
