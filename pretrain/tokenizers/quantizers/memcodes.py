"""Memory codes, for global features in 4M-21 (arXiv 2406.09406, appendix B), after NWT (arXiv 2106.04283).

Every head attends with its part of z to codes of its own, of which a linear map gives keys and another values, and
takes the value of one: of the largest logit, in training of one drawn by the Gumbel-softmax trick (arXiv 1611.01144).
Codes and maps learn by gradient; there is no codebook loss. The objective `code_entropy` keeps codes from dying.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import xavier_uniform
from pretrain.ops.keys import named
from pretrain.parameters import param
from pretrain.tokenizers.quantizers.base import Place, Quantized, code_counts


@dataclasses.dataclass(frozen=True)
class Config:
    """heads: books of `size` codes; width: of z and of the codes of all heads together."""

    heads: int = 8
    size: int = 1024
    width: int = 64
    temperature: float = 1.0

    def __post_init__(self):
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"memcodes.width={self.width}: must be divisible by memcodes.heads={self.heads}")
        if self.temperature <= 0:
            raise ValueError(f"memcodes.temperature={self.temperature}: must be positive")


class Quantizer(nnx.Module):
    """A token's ids stand together, head by head. codes `[heads, K, width / heads]`."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c, part = config, config.width // config.heads
        self.width, self.vocab_size, self.books, self.temperature = c.width, c.size, c.heads, c.temperature
        maps = lambda: jax.vmap(lambda k: xavier_uniform(k, (part, part)))(jax.random.split(rngs.params(), c.heads))
        self.codes = param(jax.random.normal(rngs.params(), (c.heads, c.size, part)))
        self.to_k, self.to_v = param(maps()), param(maps())

    def __call__(self, z, keys=None) -> Quantized:
        """With keys the draw of training, whose gradient is that of the softmax; without the likeliest code."""
        logits = self._logits(z)
        if keys is None:
            ids = logits.argmax(-1)
            taken = jax.nn.one_hot(ids, self.vocab_size)
        else:
            noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(named(keys, "gumbel"))
            soft = jax.nn.softmax((logits + noise) / self.temperature)
            ids = soft.argmax(-1)
            taken = jax.lax.stop_gradient(jax.nn.one_hot(ids, self.vocab_size) - soft) + soft
        codes = _product("bnhk,hkd->bnhd", taken, self._map(self.to_v)).reshape(z.shape)
        return Quantized(codes, ids.astype(jnp.int32).reshape(len(z), -1), {})

    def to_ids(self, codes):
        """codes `[B, N, d]` → ids `[B, N · heads]`, of the nearest values."""
        x, v = codes.reshape(*codes.shape[:2], self.books, -1), self._map(self.to_v)
        nearness = _product("bnhd,hkd->bnhk", x, v) - 0.5 * jnp.square(v).sum(-1)
        return nearness.argmax(-1).astype(jnp.int32).reshape(len(codes), -1)

    def to_codes(self, ids):
        ids = ids.reshape(len(ids), -1, self.books)
        return self._map(self.to_v)[jnp.arange(self.books), ids].reshape(*ids.shape[:2], -1)

    def log_likelihoods(self, z, temperature: float) -> list:
        """Of each head, as it draws in training, its logits over `temperature`."""
        logits = jax.nn.log_softmax(self._logits(z[None])[0] / temperature)
        return [logits[:, i] for i in range(self.books)]

    def statistics(self, z, ids, place: Place) -> dict:
        return {"counts": code_counts(ids, place.rank >= 0, self.books, self.vocab_size)}

    def update(self, statistics) -> dict:
        return {}

    def _logits(self, z):
        """`[B, N, d]` → `[B, N, heads, K]`."""
        q = z.astype(jnp.float32).reshape(*z.shape[:2], self.books, -1)
        return _product("bnhd,hkd->bnhk", q * q.shape[-1] ** -0.5, self._map(self.to_k))

    def _map(self, kernel):
        """Keys or values of all codes, `[heads, K, d]`."""
        return _product("hkd,hdc->hkc", self.codes[...], kernel[...])


def _product(how, a, b):
    return jnp.einsum(how, a, b, precision=jax.lax.Precision.HIGHEST)
