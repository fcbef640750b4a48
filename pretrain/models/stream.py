"""What flows between the parts of a network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NO_MODALITY = -1  # of register tokens, prompts and class tokens: they stand for nothing that an example holds


class Stream(NamedTuple):
    """N tokens of an example; every leaf has the leading axis B.

    x `[B, N, D]`; valid `[B, N]`: False for an empty slot; modality `[B, N]`: index into the run's modalities, or
    `NO_MODALITY`; position `[B, N]`: within its modality.
    placed `[B, N, D]`: the position and modality embedding of each token; where `[B, N, 3]`: its place in its picture
    (`parts.embed`): None of embeddings that have none.
    layers `[B, depth, N, D]`: what every block gave, before the last norm, where it was asked for; aux, {name:
    `[B, depth, …]`}, the auxiliary outputs of blocks.
    """

    x: jax.Array
    valid: jax.Array
    modality: jax.Array
    position: jax.Array
    placed: jax.Array | None = None
    where: jax.Array | None = None
    layers: jax.Array | None = None
    aux: dict | None = None

    @property
    def kinds(self):
        """The modality of each valid token, `NO_MODALITY` in empty slots, `[B, N]`: what blocks are given."""
        return jnp.where(self.valid, self.modality, NO_MODALITY)

    @property
    def counted(self):
        """Which tokens pooling counts, `[B, N]`: the valid ones that stand for something."""
        return self.valid & (self.modality != NO_MODALITY)


def prepend(rows, stream: Stream) -> Stream:
    """The stream behind tokens `[n, D]` that stand for no modality, the same ones of every example."""
    return _beside(rows, stream, (len(rows), 0))


def append(rows, stream: Stream) -> Stream:
    """The stream before such tokens."""
    return _beside(rows, stream, (0, len(rows)))


def overwrite(rows, stream: Stream, slot: int) -> Stream:
    """The stream with such tokens instead of those from `slot` on, in as many places; a place that was empty stays
    empty."""
    to = slot + len(rows)
    x = stream.x.at[:, slot:to].set(rows.astype(stream.x.dtype))
    return stream._replace(x=x, modality=stream.modality.at[:, slot:to].set(NO_MODALITY))


def _beside(rows, stream: Stream, sides) -> Stream:
    """The stream and tokens `[n, D]` on one side; sides: how many there are before it and behind it."""

    def more(x, value):
        return None if x is None else jnp.pad(x, ((0, 0), sides, *[(0, 0)] * (x.ndim - 2)), constant_values=value)

    own = jnp.broadcast_to(rows, (len(stream.x), *rows.shape)).astype(stream.x.dtype)
    return stream._replace(
        x=jnp.concatenate([own, stream.x] if sides[0] else [stream.x, own], axis=1),
        valid=more(stream.valid, True),
        modality=more(stream.modality, NO_MODALITY),
        position=more(stream.position, 0),
        placed=more(stream.placed, 0),
        where=more(stream.where, 0),
    )


def mean(x, counted):
    """The mean of the counted tokens of x `[B, N, D]`, `[B, D]`; zeros where there is none."""
    weights = counted / jnp.maximum(counted.sum(1, keepdims=True), 1)
    return jnp.einsum("bn,bnd->bd", weights, x)


def unit(z):
    """L2-normalised rows; zeros stay zeros."""
    return z * jax.lax.rsqrt(jnp.square(z).sum(-1, keepdims=True) + 1e-12)
