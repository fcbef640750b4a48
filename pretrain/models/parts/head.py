"""Scores of tokens over vocabularies, by the tables of an embedding."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.ops.cross_entropy import grouped_nll
from pretrain.ops.matmul import matmul


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: what gives the tokens. table: the embedding (`parts.embed`) whose tables are the head."""

    table: str = "embed"

    gives = base.SCORES

    def make(self, build, rngs):
        if build.width(self.table) != build.width(self.reads[0]):
            build.fail("table", self.table, f"its rows are not of the width that {self.reads[0]!r} gives")
        return Part(self, build)


class Part(nnx.Module):
    """(Stream `[B, M]`, labels `[B, M]`) → −log p of each label under its own modality's vocabulary, `[B, M]`; 0 in
    empty slots. It has no parameters."""

    def __init__(self, config: Config, build: base.Build):
        self.config, self.dtype = config, build.dtype

    def __call__(self, stream: Stream, labels, asked: Asked, **more):
        """more: of `grouped_nll`."""
        embed = getattr(asked.network, self.config.table)
        tables = [embed.head(v) for v in embed.targets]
        vocab = embed.target_of(stream.modality)
        return grouped_nll(stream.x, tables, vocab, labels, stream.valid, dtype=self.dtype, **more)

    def logits(self, x, vocab: str, asked: Asked):
        """`[…, D]` → `[…, V]` over one vocabulary; the head is a transposed table."""
        return matmul(x, getattr(asked.network, self.config.table).head(vocab).T, jnp.dtype(self.dtype))
