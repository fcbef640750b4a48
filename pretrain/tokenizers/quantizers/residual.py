"""Residual vector quantization (arXiv 2107.03312, section III.C; of images, arXiv 2203.01941, section 3.1).

A first codebook quantizes z, every further one what those before it left over; the code is the sum. All are the
Euclidean codebooks of `vq`, averages and renewal included.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.parameters import param
from pretrain.tokenizers.quantizers import vq
from pretrain.tokenizers.quantizers.base import Place, Quantized, commitment, straight_through

AVERAGED = ("codebook", "counts", "sums")


@dataclasses.dataclass(frozen=True)
class Config:
    """levels: how many codebooks, of `size` codes of `width` numbers each. decay, renew, kmeans: as in `vq`."""

    levels: int = 4
    size: int = 256
    width: int = 32
    decay: float = 0.99
    renew: float = 1 / 32
    kmeans: int = 0

    def __post_init__(self):
        vq.check(self, "residual")
        if self.levels < 1:
            raise ValueError(f"residual.levels={self.levels}: must be at least 1")

    @property
    def cosine(self) -> bool:  # lengths are what is left over
        return False


class Quantizer(nnx.Module):
    """A token's ids stand together, the coarsest first: `[level 0 of token 0, level 1 of token 0, …]`."""

    log_likelihoods = None

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config, self.width, self.vocab_size, self.books = config, config.width, config.size, config.levels
        start = jax.vmap(lambda key: vq.init(config, key))(jax.random.split(rngs.params(), config.levels))
        self.codebook, self.counts, self.sums = (param(start[name], statistics=True) for name in AVERAGED)

    def __call__(self, z, keys=None) -> Quantized:
        """The loss `commitment` is the mean over levels of that of what each was given."""
        z = z.astype(jnp.float32)
        left, ids, losses = z, [], []
        for codebook in self.codebook[...]:
            ids.append(vq.nearest(left, codebook, cosine=False))
            code = jax.lax.stop_gradient(codebook[ids[-1]])
            losses.append(commitment(code, left))
            left = left - code
        ids = jnp.stack(ids, -1).reshape(len(z), -1)
        return Quantized(straight_through(self.to_codes(ids), z), ids, {"commitment": sum(losses) / self.books})

    def to_codes(self, ids):
        return sum(self._summands(ids))

    def start(self, z, tokens: int) -> dict:
        levels = []
        for _ in range(self.books):
            levels.append(vq.start(self.config, z, tokens))
            z = z - levels[-1]["codebook"][vq.nearest(z, levels[-1]["codebook"], cosine=False)]
        return {name: jnp.stack([level[name] for level in levels]) for name in AVERAGED}

    def statistics(self, z, ids, place: Place) -> dict:
        left, levels = z.astype(jnp.float32), []
        for level, code in enumerate(self._summands(ids)):
            own = place._replace(key=jax.random.fold_in(place.key, 10 + level))
            levels.append(vq.gather(self.config, left, self._of(level, ids), own))
            left = left - code
        return {name: jnp.stack([sums[name] for sums in levels]) for name in levels[0]}

    def update(self, statistics) -> dict:
        held = {name: getattr(self, name)[...] for name in AVERAGED}
        return jax.vmap(lambda held, sums: vq.follow(self.config, held, sums))(held, statistics)

    def _of(self, level: int, ids):
        return ids.reshape(len(ids), -1, self.books)[..., level]

    def _summands(self, ids):
        return [codebook[self._of(level, ids)] for level, codebook in enumerate(self.codebook[...])]
