"""Corruptions that several objectives share: what is made of a batch before a network is shown it (`passes.Leaf`).

Each is a frozen value: those that are equal are drawn once, whichever objectives ask.
"""

import dataclasses

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.tokens import Shown, TokenSet, dense_rows, whole
from pretrain.ops.keys import named
from pretrain.tokenizers.quantizers.base import Place


@dataclasses.dataclass(frozen=True)
class Thinned:
    """A random subset of `size` tokens of one modality → Shown, as in FLIP (arXiv 2212.00794)."""

    name: str
    size: int
    modalities: tuple[Modality, ...]

    def __call__(self, batch, keys) -> Shown:
        tokens = whole(batch, self.name, self.modalities)

        def thin(key, tokens):
            kept = jax.random.permutation(key, len(tokens.ids))[: self.size]
            return TokenSet(*(field[jnp.sort(kept)] for field in tokens))

        own = [m for m in self.modalities if m.name == self.name]
        return Shown(jax.vmap(thin)(named(keys, "thin", self.name), tokens), dense_rows(batch, own))


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of the batch as it is."""

    name: str

    def __call__(self, batch, keys):
        return batch[self.name]


@dataclasses.dataclass(frozen=True)
class Label:
    """The class of an example → {"ids" int32 `[B]`, "valid" `[B]`}."""

    name: str

    def __call__(self, batch, keys) -> dict:
        label = batch[self.name]
        return {"ids": label["ids"][:, 0].astype(jnp.int32), "valid": label["valid"][:, 0]}


@dataclasses.dataclass(frozen=True)
class Begun:
    """Whether training has come to a step, `[B]`; in evaluation it has."""

    start: int

    def __call__(self, batch, keys):
        return batch["step"] >= self.start if "step" in batch else jnp.ones(len(keys), bool)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A random number in [0, 1) of every example `[B]`, or with `shared` one for all: the same on all hosts."""

    names: tuple[str, ...]
    shared: bool = False

    def __call__(self, batch, keys):
        if self.shared:
            return jnp.broadcast_to(jax.random.uniform(named(keys[0], *self.names)), keys.shape)
        return jax.vmap(jax.random.uniform)(named(keys, *self.names))


@dataclasses.dataclass(frozen=True)
class Raw:
    """The pixels or vectors of modalities → {"raw" `[B, modalities, …]`: what one example holds stays together,
    "place", leaves `[B, …]`: the rank of each `[B, modalities]`, how many there are and one key for the batch
    (`quantizers.base.Place`)}.

    Vectors of which some are lacking are left out.
    """

    modalities: tuple[Modality, ...]

    def __call__(self, batch, keys) -> dict:
        given, vectors = [batch[m.name] for m in self.modalities], self.modalities[0].form == "vectors"
        valid = jnp.stack([x["valid"].all(-1) if vectors else x["valid"] for x in given], 1)
        order = jnp.cumsum(valid.ravel().astype(jnp.int32)).reshape(valid.shape)
        place = Place(
            jnp.where(valid, order - 1, -1),
            jnp.broadcast_to(valid.sum(dtype=jnp.int32), len(keys)),
            jnp.broadcast_to(named(keys[0], "batch"), keys.shape),
        )
        return {"raw": jnp.stack([x[self.modalities[0].form] for x in given], 1), "place": place}
