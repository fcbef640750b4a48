"""Prototypes of each region beside what is seen there, and read back into it (SkySense, arXiv 2312.10115)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream, unit
from pretrain.ops.assignment import sinkhorn
from pretrain.parameters import param


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the stream, and the number of an example's region, 0 … regions − 1 (`embed_one` with raw=True).

    prototypes: of each region. dim: of what it gives, twice that of the stream. epsilon, iterations: of Sinkhorn's
    algorithm, by which the objective `region_prototypes` assigns tokens to them; nothing else moves them.
    """

    dim: int = 1536
    regions: int = 4096
    prototypes: int = 100
    epsilon: float = 0.05
    iterations: int = 3

    def make(self, build, rngs):
        gives = [build.parts[name].gives if name in build.parts else "" for name in self.reads]
        if gives != [base.STREAM, base.STREAM] or build.width(self.reads[1]) != 1:
            build.fail("reads", self.reads, "name a stream, and an embedding of one number as it is given (raw=True)")
        if self.dim != 2 * build.width(self.reads[0]):
            build.fail("dim", self.dim, f"must be twice that of {self.reads[0]!r}, {build.width(self.reads[0])}")
        if self.regions < 1 or self.prototypes < 2:
            build.fail("regions", self.regions, f"must be at least 1, and prototypes={self.prototypes} at least 2")
        if not self.epsilon > 0 or self.iterations < 0:
            build.fail("epsilon", self.epsilon, f"must be positive, and iterations={self.iterations} not negative")
        return Part(self, rngs)


class Part(nnx.Module):
    """(Stream x `[B, N, D]`, Stream of one number) → Stream `[x, softmax(x P_rᵀ / √D) P_r]`, `[B, N, 2 D]`, no gradient
    to P. With assigned=True {"sums" `[B, K, D]`, "counts" `[B, K]`, "region" `[B]`}: what of an example goes to each
    prototype of its region, S = sinkhorn(cos(x, P_r) / epsilon) over its tokens, Sᵀ x and Σ S.

    Parameters: `table [regions, K, D]`, which statistics set. The number of a region that there is not gives NaN.
    """

    def __init__(self, config: Config, rngs: nnx.Rngs):
        c = self.config = config
        shape = c.regions, c.prototypes, c.dim // 2
        self.table = param(jax.random.normal(rngs.params(), shape), statistics=True)

    def __call__(self, stream: Stream, number: Stream, asked: Asked, assigned: bool = False):
        c, region = self.config, number.x[:, 0, 0].astype(jnp.int32)
        known = (region >= 0) & (region < c.regions)
        own = jax.lax.stop_gradient(self.table[...])[jnp.clip(region, 0, c.regions - 1)]
        x, high = stream.x.astype(jnp.float32), dict(precision=jax.lax.Precision.HIGHEST)
        if assigned:
            x = jax.lax.stop_gradient(x)
            scores = jnp.einsum("bnd,bkd->bnk", unit(x), unit(own), **high) / c.epsilon
            shares = jax.vmap(lambda s, valid: sinkhorn(s, valid, c.iterations))(scores, stream.valid)
            shares = jnp.where((known & number.valid[:, 0])[:, None, None], shares, 0.0)
            sums = jnp.einsum("bnk,bnd->bkd", shares, jnp.where(stream.valid[..., None], x, 0.0), **high)
            return {"sums": sums, "counts": shares.sum(1), "region": region}
        weights = jax.nn.softmax(jnp.einsum("bnd,bkd->bnk", x, own, **high) / x.shape[-1] ** 0.5, axis=-1)
        found = jnp.einsum("bnk,bkd->bnd", weights, own, **high)
        found = jnp.where(known[:, None, None], found, jnp.nan)
        return stream._replace(x=jnp.concatenate([x, found], -1).astype(stream.x.dtype), placed=None, layers=None)
