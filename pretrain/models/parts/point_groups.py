"""The embedding of a cloud of points: groups around points that lie far apart, each a token."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base
from pretrain.models.parts.mlp import Layers
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.models.tokens import Shown
from pretrain.ops.points import farthest, nearest


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: a modality of `vectors`, a row a point: x, y, z, and what else is known of it, such as its colour.

    groups: tokens, the centres of which are as far apart as they can be; neighbours: points of each, the nearest ones.
    hidden: width of the first layer of what reads a group.
    """

    dim: int = 384
    groups: int = 512
    neighbours: int = 32
    hidden: int = 128

    def make(self, build, rngs):
        spec = build.spec(self.reads[0])
        if len(self.reads) != 1 or spec.form != "vectors" or spec.width < 3:
            build.fail("reads", self.reads, "name one modality of vectors whose rows are x, y, z and more")
        for key in ("groups", "neighbours"):
            if not 1 <= getattr(self, key) <= spec.length:
                build.fail(key, getattr(self, key), f"must be from 1 to the {spec.length} points of {spec.name!r}")
        if self.hidden < 1:
            build.fail("hidden", self.hidden, "must be at least 1")
        return Part(self, spec.width, build, rngs)


class Part(nnx.Module):
    """Shown of points → Stream `[B, groups, dim]` (Point-BERT, arXiv 2111.14819, section 3.1): centres by farthest
    point sampling from the first point, the nearest points to each, moved to it, read by a small PointNet: two layers
    a point, their maximum beside each, two more, the maximum. A network of the centre is its position.

    The release normalises batches between layers; here nothing is. Groups beyond an example's points are empty.
    """

    def __init__(self, config: Config, width: int, build: base.Build, rngs: nnx.Rngs):
        c, h = config, config.hidden
        self.groups, self.neighbours = c.groups, c.neighbours
        self.first = Layers((width, h, 2 * h), "relu", "none", build.dtype, rngs)
        self.second = Layers((4 * h, 4 * h, 2 * h), "relu", "none", build.dtype, rngs)
        self.out = Linear(2 * h, c.dim, bias=True, dtype=build.dtype, rngs=rngs)
        self.place = Layers((3, h, c.dim), "gelu", "none", build.dtype, rngs)

    def __call__(self, shown: Shown, asked: Asked) -> Stream:
        tokens, (rows,) = shown.tokens, shown.dense.values()
        rows = jnp.take_along_axis(rows, tokens.ids[..., None], axis=1).astype(jnp.float32)
        there, places = tokens.valid, rows[..., :3]
        centres, own = jax.vmap(farthest, (0, 0, None))(places, there, self.groups)
        members, counted = jax.vmap(nearest, (0, 0, 0, None))(centres, places, there, self.neighbours)
        group = jax.vmap(lambda x, i: x[i])(rows, members)
        group = group.at[..., :3].add(-centres[:, :, None])
        counted = counted & own[..., None]
        placed = jnp.where(own[..., None], self.place(centres), 0.0)
        x = jnp.where(own[..., None], self.out(self.read(group, counted)) + placed, 0.0)
        numbers = jnp.broadcast_to(jnp.arange(self.groups, dtype=jnp.int32), own.shape)
        kinds = jnp.broadcast_to(tokens.modality[:, :1], own.shape)
        return Stream(x, own, kinds, numbers, placed)

    def read(self, group, counted):
        """`[B, G, K, width]` → `[B, G, 2 hidden]`; counted `[B, G, K]`."""
        x = self.first(group)
        whole = jnp.broadcast_to(_highest(x, counted)[:, :, None], x.shape)
        return _highest(self.second(jnp.concatenate([whole, x], -1)), counted)


def _highest(x, counted):
    """The maximum over the counted of `[…, K, D]`; zeros where there are none."""
    found = jnp.where(counted[..., None], x, -jnp.inf).max(-2)
    return jnp.where(counted.any(-1, keepdims=True), found, 0.0)
