"""A state that takes in one modality after another (MultiModN, arXiv 2309.14118, section 3)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.parts.mlp import Layers, check
from pretrain.models.passes import Asked
from pretrain.models.stream import NO_MODALITY, Stream, mean
from pretrain.parameters import mark, undecayed


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: what embeds the tokens of all modalities side by side. dim: of the state.

    order: the modalities, in the order in which they are encoded. hidden, activation, final: of every encoder
    (`parts.mlp`); the release's for clinical records ends in an activation, its plain one does not.
    """

    order: tuple[str, ...] = dataclasses.field(kw_only=True)
    dim: int = 50
    hidden: tuple[int, ...] = (32, 32)
    activation: str = "relu"
    final: str = "relu"

    @property
    def depth(self) -> int:
        """One encoder a modality."""
        return len(self.order)

    def make(self, build, rngs):
        check(self, build)
        source = build.parts[self.reads[0]]
        given = set(source.reads) or {m.name for m in build.modalities}
        if not source.joint:
            build.fail("reads", self.reads, "needs an embedding of several modalities side by side, such as `embed`")
        if len(set(self.order)) < len(self.order) or set(self.order) != given:
            names = ", ".join(m.name for m in build.modalities if m.name in given)
            build.fail("order", self.order, f"name each modality that {self.reads[0]!r} embeds once: {names}")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Stream `[B, N, D]` → Stream `[B, E + 1, dim]` of the states s_0 … s_E, E modalities.

    s_0 is learned, the same of every example, and stands for no modality. s_i = mean_n E_i([x_n; s_{i−1}]) over the
    tokens n of the i-th modality of an example, without residual or gate; s_i = s_{i−1}, and not valid, where it has
    none. The release has one row of features a modality, and the mean is of that one.
    Parameters: `start [dim]` and `encoders/MODALITY`.
    """

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.index = tuple([m.name for m in build.modalities].index(name) for name in c.order)
        self.start = mark(undecayed(jax.random.normal(rngs.params(), (c.dim,))), depth=c.depth)
        sizes = build.width(c.reads[0]) + c.dim, *c.hidden, c.dim
        make = lambda: Layers(sizes, c.activation, c.final, build.dtype, rngs)
        self.encoders = nnx.Dict({name: mark(make(), depth=c.depth - i) for i, name in enumerate(c.order)})

    def __call__(self, stream: Stream, asked: Asked, drop: float = 0.0) -> Stream:
        """drop: rate of dropout on what every encoder reads, its tokens and the state (`keys` draw it)."""
        size = len(stream.x)
        state = jnp.broadcast_to(self.start[...], (size, self.config.dim))
        states, valid = [state], [jnp.ones(size, bool)]
        for step, (name, number) in enumerate(zip(self.config.order, self.index)):
            mine = stream.valid & (stream.modality == number)
            repeated = jnp.broadcast_to(state[:, None], (*mine.shape, state.shape[-1]))
            row = jnp.concatenate([stream.x, repeated], axis=-1)
            if drop:
                row = dropout(asked.keys, step, row, drop)
            new, present = mean(self.encoders[name](row), mine), mine.any(1)
            state = jnp.where(present[:, None], new, state)
            states, valid = [*states, state], [*valid, present]
        numbers = jnp.asarray([NO_MODALITY, *self.index])
        x, valid = jnp.stack(states, axis=1), jnp.stack(valid, axis=1)
        layers = self._layers(states) if asked.layers else None
        position = jnp.zeros(valid.shape, jnp.int32)
        return Stream(x, valid, jnp.broadcast_to(numbers, valid.shape), position, layers=layers)

    def _layers(self, states):
        """`[B, E, E + 1, dim]`: after each encoder the states so far, and the last of them in the place of the rest."""
        at = [[min(step + 1, i) for i in range(len(states))] for step in range(self.config.depth)]
        return jnp.stack(states, axis=1)[:, jnp.asarray(at)]


def dropout(keys, step: int, x, rate: float):
    """x `[B, …]` with a share of its numbers at zero and the others scaled up; keys `[B]`, one an example."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - rate), 0.0)
