"""What blocks over several streams share. Such a block is a file of this folder with a class `Fusion`."""

from typing import Protocol

import jax.numpy as jnp

from pretrain.models.blocks.base import Config, Given
from pretrain.models.layers import Seen


class Topology(Protocol):
    """How streams of one width read each other: an nnx module, `Fusion` in its file. `parts.fusion` stacks it."""

    def __init__(self, config: Config, names: tuple[str, ...], *, rngs):
        """names: of the parts that gave the streams, under which it keeps what each has of its own."""

    def __call__(self, xs: tuple, given: Given):
        """xs: `[B, N_i, D]` each, with given.seen one each → (as many of the same shapes, {name: `[B, …]`} auxiliary
        outputs)."""


def alone(given: Given, i: int) -> Given:
    """What the branches of stream i read that look at this stream alone."""
    return given._replace(seen=given.seen[i])


def beside(xs: tuple, given: Given, i: int) -> Given:
    """As `alone`, and as context the tokens of all other streams, side by side."""
    others = [j for j in range(len(xs)) if j != i]
    mask = jnp.concatenate([given.seen[j].mask for j in others], axis=-1)
    context = jnp.concatenate([xs[j] for j in others], axis=1)
    return alone(given, i)._replace(context=context, context_seen=Seen(mask))
