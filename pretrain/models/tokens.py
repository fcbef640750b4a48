"""Token sets: what was selected of an example, before it is embedded."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality


class TokenSet(NamedTuple):
    """N tokens of any modalities; every field is `[B, N]`.

    ids: into the modality's vocabulary; for pixels and vectors, which row of the example's own (past the last: zeros);
    modality: index into the run's modalities; position: raster index on a grid, running index in a sequence;
    valid: False for an empty slot.
    """

    ids: jax.Array
    modality: jax.Array
    position: jax.Array
    valid: jax.Array


class Shown(NamedTuple):
    """What a network is shown: tokens, and the rows that those of pixels and vectors are of (`dense_rows`)."""

    tokens: TokenSet
    dense: dict


def alike(a: Shown, b: Shown):
    """Which examples show the same in both, bool `[B]`; both of the same modalities, all their tokens."""
    ours, theirs = (jnp.where(s.tokens.valid, s.tokens.ids, -1) for s in (a, b))
    same = (ours == theirs).all(1)
    for name, rows in a.dense.items():
        # A compiler may normalise the same pixels in two ways.
        same &= jnp.isclose(rows, b.dense[name], rtol=1e-5, atol=1e-6).all(tuple(range(1, rows.ndim)))
    return same


def concat(sets: list[TokenSet]) -> TokenSet:
    """Joins token sets along N."""
    return TokenSet(*(jnp.concatenate(parts, axis=1) for parts in zip(*sets)))


def pad(tokens: TokenSet, length: int) -> TokenSet:
    """Adds empty slots up to `[B, length]`, so that sets of several lengths share one compilation."""
    return TokenSet(*(jnp.pad(f, ((0, 0), (0, length - f.shape[1]))) for f in tokens))


def presence(batch: dict, modality: Modality):
    """Which tokens of a modality each example of a batch has, `[B, L]`."""
    valid = batch[modality.name]["valid"]
    return valid if valid.ndim == 2 else jnp.repeat(valid[:, None], modality.length, axis=1)


def whole(batch: dict, name: str, modalities) -> TokenSet:
    """All the tokens of one modality of a batch, `[B, L]`."""
    known = [m.name for m in modalities]
    if name not in known:
        raise ValueError(f"no modality {name!r}: the network knows {', '.join(known)}")
    index = known.index(name)
    valid = presence(batch, modalities[index])
    position = jnp.broadcast_to(jnp.arange(valid.shape[1], dtype=jnp.int32), valid.shape)
    ids = position if modalities[index].dense else batch[name]["ids"].astype(jnp.int32)
    return TokenSet(ids, jnp.full(valid.shape, index, jnp.int32), position, valid)


def dense_rows(batch: dict, modalities) -> dict:
    """{name: `[B, L, width]`} of those that have no ids: vectors, and patches of pixels, normalised."""
    return {m.name: m.rows(batch[m.name][m.form]) for m in modalities if m.dense}


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A corruption of a model that calls the modalities of a batch otherwise; names: ((its name, the batch's), …)."""

    make: Callable
    names: tuple[tuple[str, str], ...]

    def __call__(self, batch, keys=None):
        return self.make(batch | {theirs: batch[ours] for theirs, ours in self.names}, keys)


@dataclasses.dataclass(frozen=True)
class Whole:
    """The corruption that leaves everything: all the tokens of modalities, in the order of the names → Shown."""

    names: tuple[str, ...]
    modalities: tuple[Modality, ...]

    def __call__(self, batch, keys=None) -> Shown:
        tokens = concat([whole(batch, n, self.modalities) for n in self.names])
        return Shown(tokens, dense_rows(batch, [m for m in self.modalities if m.name in self.names]))
