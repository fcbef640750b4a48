"""Scores of masked words by the table that embeds them."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.ops.cross_entropy import grouped_nll

WORDS = "losses of words"


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the stream of a text, which may have class tokens before it. table: the embedding (`parts.embed_one`)
    whose table is the head."""

    table: str = "embed"

    gives = WORDS

    def make(self, build, rngs):
        found = build.parts.get(self.table)
        if found is None or found.joint or len(found.reads) != 1 or build.spec(found.reads[0]).dense:
            build.fail("table", self.table, "name the part that embeds the text, and nothing else")
        if build.width(self.table) != build.width(self.reads[0]):
            build.fail("table", self.table, f"its rows are not of the width that {self.reads[0]!r} gives")
        return Part(self, build)


class Part(nnx.Module):
    """(Stream `[B, n + L, D]`, {"ids", "chosen"} `[B, L]`) → −log p of every chosen word, `[B, L]`; 0 of the others,
    which are not computed. It has no parameters; words have no bias."""

    def __init__(self, config: Config, build: base.Build):
        self.table, self.dtype = config.table, build.dtype

    def __call__(self, stream: Stream, words: dict, asked: Asked):
        ids, chosen = words["ids"], words["chosen"]
        table = getattr(asked.network, self.table).table[...]
        x = stream.x[:, stream.x.shape[1] - ids.shape[1] :]
        return grouped_nll(x, [table], jnp.zeros_like(ids), ids, chosen, dtype=self.dtype)
