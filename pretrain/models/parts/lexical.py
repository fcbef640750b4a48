"""One vector of a stream, a weight for every word of a vocabulary: what its tokens say, in words."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream, mean
from pretrain.ops.matmul import matmul
from pretrain.parameters import param

HOW = ("max", "mean")
ACTIVATIONS = {"log1p": lambda x: jnp.log1p(jax.nn.relu(x)), "elu": lambda x: jax.nn.elu(x) + 1}


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the stream, as wide as the rows of the table. words: the text whose vocabulary it is; dim: its size.

    table: the embedding of that text (`parts.embed_one`) whose table it takes; "" for one of its own, which
    `config.load` may start from another's, and a rule of `config.train`, or frozen=True, holds still.
    activation: `log1p`, log(1 + relu(x)) (SPLADE, arXiv 2107.05720, section 3.2), or `elu`, elu(x) + 1.
    how: the `max` over tokens, or their `mean`.
    block: so many words at a time, computed again in the backward pass; 0 holds the weights of all words of every
    token.
    """

    words: str = dataclasses.field(kw_only=True)
    dim: int = 32_000
    table: str = ""
    activation: str = "log1p"
    how: str = "max"
    block: int = 0

    gives = base.VECTOR

    def make(self, build, rngs):
        for key, allowed in (("how", HOW), ("activation", ACTIVATIONS)):
            if getattr(self, key) not in allowed:
                build.fail(key, getattr(self, key), f"must be one of {', '.join(allowed)}")
        spec = build.spec(self.words)
        if not spec.text:
            build.fail("words", self.words, f"must be a text; it is {spec.kind}")
        if self.dim != spec.vocab_size:
            build.fail("dim", self.dim, f"{self.words!r} has {spec.vocab_size} words, one weight each")
        if self.block < 0 or (self.block and self.dim % self.block):
            build.fail("block", self.block, f"must divide dim={self.dim}; 0 is all at once")
        if self.table:
            found = build.parts.get(self.table)
            if found is None or found.joint or self.words not in found.reads:
                build.fail(
                    "table", self.table, f"name the part that embeds {self.words!r}, and nothing of another kind"
                )
            if found.dim != build.width(self.reads[0]):
                build.fail("table", self.table, f"its rows are not of the width that {self.reads[0]!r} gives")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Stream `[B, N, D]` → `[B, dim]`, pool_n activation(⟨x_n, e_v⟩) of the rows e of the table, none below 0; zeros
    where an example has nothing. With tokens=True `[B, N, dim]`, of each token."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        self.config, self.dtype = config, build.dtype
        made = lambda: jax.random.normal(rngs.params(), (config.dim, build.width(config.reads[0])))
        self.table = None if config.table else param(0.02 * made(), vocab=build.spec(config.words).vocab)

    def __call__(self, stream: Stream, asked: Asked, tokens: bool = False):
        c, counted = self.config, stream.counted
        table = (getattr(asked.network, c.table) if c.table else self).table[...]
        scores = lambda rows: matmul(stream.x, rows.T, self.dtype).astype(jnp.float32)
        if tokens:
            return ACTIVATIONS[c.activation](scores(table))
        pool = lambda rows: self._pool(scores(rows), counted)
        if not c.block:
            return pool(table)
        found = jax.lax.map(jax.checkpoint(pool), table.reshape(-1, c.block, table.shape[1]))
        return jnp.moveaxis(found, 0, 1).reshape(len(counted), -1)

    def _pool(self, scores, counted):
        """`[B, N, v]` → `[B, v]`."""
        activation = ACTIVATIONS[self.config.activation]
        if self.config.how == "mean":
            return mean(activation(scores), counted)
        most = jnp.where(counted[..., None], scores, jnp.finfo(scores.dtype).min).max(1)  # no activation ever falls
        return jnp.where(counted.any(1)[:, None], activation(most), 0.0)
