"""Tokens of a text's own vocabulary behind every text, such as the [IMG] tokens of GILL."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import NO_MODALITY, Stream
from pretrain.sharding import gather_rows


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the embedding of a text (`parts.embed_one`), whose table gives the tokens. rows: their ids. dim: of the
    tokens. They are the last slots of the stream, whatever the length of the text before them.
    """

    rows: tuple[int, ...] = dataclasses.field(kw_only=True)
    dim: int = 768

    @property
    def appends(self) -> tuple[int, ...]:
        return self.rows

    def make(self, build, rngs):
        source = build.parts[self.reads[0]]
        reads = source.reads[0] if source.reads else ""
        spec = next((m for m in build.modalities if m.name == reads), None)
        if source.joint or spec is None or not spec.text:
            build.fail("reads", self.reads, "name the part that embeds a text, and nothing else")
        if not self.rows or len(set(self.rows)) < len(self.rows):
            build.fail("rows", self.rows, "name at least one token, and each once")
        if not 0 <= min(self.rows) <= max(self.rows) < spec.vocab_size:
            build.fail("rows", self.rows, f"must be ids of {spec.name!r}, 0…{spec.vocab_size - 1}")
        if source.dim != self.dim:
            build.fail("dim", self.dim, f"{self.reads[0]!r} gives tokens of width {source.dim}")
        return Part(self)


class Part(nnx.Module):
    """Stream `[B, N, D]` → Stream `[B, N + rows, D]`. It has no parameters: the rows are the table's own.

    They stand for nothing that an example holds (`NO_MODALITY`), and are valid where there is a text.
    """

    def __init__(self, config: Config):
        self.source, self.rows = config.reads[0], config.rows

    def __call__(self, stream: Stream, asked: Asked) -> Stream:
        size, n, k = *stream.valid.shape, len(self.rows)
        rows = gather_rows(getattr(asked.network, self.source).table[...])[jnp.asarray(self.rows)]
        both = lambda x, more: jnp.concatenate([x, jnp.broadcast_to(more, (size, k, *x.shape[2:])).astype(x.dtype)], 1)
        return stream._replace(
            x=both(stream.x, rows),
            valid=both(stream.valid, stream.counted.any(1, keepdims=True)),
            modality=both(stream.modality, NO_MODALITY),
            position=both(stream.position, jnp.arange(n, n + k)),
        )
