"""One embedding of several views of a thing, such as pictures from all sides, by what another embedding asks for."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import LayerNorm, Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream, unit
from pretrain.parameters import param

HOW = ("query", "mean", "first")


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: a stream of views as they are given (`embed_one` with raw=True), a row a view: the number of the side from
    which it is seen, 0 … degrees − 1, and of its kind, 0 … depths − 1, such as colours and depth, then its features;
    and the embedding, such as of a text, that says which views count. A linear layer brings features of another width
    to `dim`.

    how: `query`, weights by that embedding; `mean`; `first`, the first view alone.
    """

    dim: int = 512
    degrees: int = 30
    depths: int = 2
    how: str = "query"
    eps: float = 1e-5

    gives = base.EMBEDDING

    def make(self, build, rngs):
        kinds = [build.parts[name].gives if name in build.parts else "" for name in self.reads]
        if kinds != [base.STREAM, base.EMBEDDING]:
            build.fail("reads", self.reads, "name a part that gives a stream of views, and one that gives an embedding")
        if build.width(self.reads[1]) != self.dim:
            build.fail("dim", self.dim, f"{self.reads[1]!r} has {build.width(self.reads[1])} numbers; take as many")
        if self.how not in HOW:
            build.fail("how", self.how, f"must be one of {', '.join(HOW)}")
        if build.width(self.reads[0]) < 3 or self.degrees < 1 or self.depths < 1:
            build.fail("degrees", self.degrees, "views have a side and a kind, of one and more, and features")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """(Stream `[B, n, 2 + D]`, `[B, dim]` of unit length) → Σ_n w_n unit(norm(v_n + side + kind)), `[B, dim]`,
    w = softmax_n ⟨unit(v_n), asked⟩ without a temperature: no weight is more than e² times another. It is not brought
    to unit length (JM3D, arXiv 2310.09503; its release).

    Numbers of a side or a kind that there are not make it NaN.
    """

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c, given = config, build.width(config.reads[0]) - 2
        self.how = c.how
        self.linear = None if given == c.dim else Linear(given, c.dim, bias=True, dtype=build.dtype, rngs=rngs)
        table = lambda rows: param(jax.random.uniform(rngs.params(), (rows, c.dim)))
        self.degree, self.depth = table(c.degrees), table(c.depths)
        self.norm = LayerNorm(c.dim, bias=True, eps=c.eps)

    def __call__(self, views: Stream, query, asked: Asked):
        x, there = views.x[..., 2:], views.valid
        x = x if self.linear is None else self.linear(x)
        where = [_rows(table[...], views.x[..., i]) for i, table in enumerate((self.degree, self.depth))]
        own = unit(self.norm(x + sum(where)))
        weights = self.weights(unit(x), query, there)
        return jnp.einsum("bn,bnd->bd", weights, jnp.where(there[..., None], own, 0.0))

    def weights(self, x, query, there):
        """`[B, n]`, of sum 1; zeros where there is no view."""
        scores = jnp.zeros(there.shape)
        if self.how == "query":
            scores = jnp.einsum("bnd,bd->bn", x, query, precision=jax.lax.Precision.HIGHEST)
        counted = there & (jnp.arange(there.shape[1]) < 1) if self.how == "first" else there
        return jax.nn.softmax(jnp.where(counted, scores, jnp.finfo(jnp.float32).min), axis=1) * counted


def _rows(table, numbers):
    """The rows of a table that numbers `[…]`, given as floats, name; NaN where there is none."""
    at = numbers.astype(jnp.int32)
    return jnp.where(((at >= 0) & (at < len(table)))[..., None], table[jnp.clip(at, 0, len(table) - 1)], jnp.nan)
