"""Interventions: what is changed inside of a network, for evaluations that ask what a part of it does.

An edit is given to a part by its name (`Edited`), and called with what is the part's own. Of an encoder it is
edit(stream, given, each) → (given, each), what its stack is given for the stream that enters the first block; of an
embedding of tokens edit(content) → content, `[B, N, D]` of all that it is shown, before positions are added.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pretrain.models.blocks import ENCODER

HIDDEN = -1e9  # added to a score: its weight is zero in fp32, and no NaN arises


@dataclasses.dataclass(frozen=True, eq=False)
class Edited:
    """A network under interventions, for `passes.compute`. edits: {part: edit}."""

    network: Any
    edits: dict

    @property
    def states(self):
        return self.network.states

    def reads_layers(self, node) -> bool:
        return self.network.reads_layers(node)

    def run(self, part: str, *args, **more):
        return self.network.run(part, *args, edit=self.edits.get(part), **more)


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """Of an encoder: in some blocks no target looks at a source, but every token at itself: it must see something.

    target, source: stream → bool `[B, N]`; blocks bool `[depth]`; heads bool `[H]`, None for all.
    """

    target: Callable
    source: Callable
    blocks: jax.Array
    heads: jax.Array | None = None

    def __call__(self, stream, given, each):
        if given.seen.bias is not None:
            raise ValueError("attention has a bias of its own, which is every block's: nothing can be cut beside it")
        others = ~jnp.eye(stream.x.shape[1], dtype=bool)
        cut = self.target(stream)[:, :, None] & self.source(stream)[:, None, :] & others
        cut = cut[:, None] if self.heads is None else cut[:, None] & self.heads[:, None, None]
        seen = given.seen._replace(bias=jnp.where(cut, HIDDEN, 0.0))
        return given._replace(seen=seen), each._replace(biased=self.blocks)


@dataclasses.dataclass(frozen=True, eq=False)
class Skip:
    """Of an encoder: some tokens pass some blocks without one of their residual branches.

    which: stream → bool `[B, N]`; blocks bool `[depth]`; branches: their names in a block (`blocks.ENCODER`).
    """

    which: Callable
    blocks: jax.Array
    branches: tuple[str, ...] = ("mlp",)

    def __call__(self, stream, given, each):
        left_out = jnp.asarray([name in self.branches for name in ENCODER])
        keep = ~(self.blocks[:, None, None, None] & self.which(stream)[:, :, None] & left_out)
        return given, each._replace(keep=keep.astype(stream.x.dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class Replace:
    """Of an embedding: vectors in the place of what some tokens say.

    values `[B, P, D]`; at int `[N]` or `[B, N]`: which of them stands at each place, -1 for what is shown there.
    """

    values: jax.Array
    at: jax.Array

    def __call__(self, content):
        at = jnp.broadcast_to(self.at, content.shape[:2])[..., None]
        given = jnp.take_along_axis(self.values, jnp.maximum(at, 0), axis=1)
        return jnp.where(at >= 0, given.astype(content.dtype), content)
