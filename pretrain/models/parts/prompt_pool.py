"""Soft prompts in the place of a modality that an example lacks (PTUnifier, arXiv 2302.08958, section 3.2)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import NO_MODALITY, Stream, mean
from pretrain.models.tokens import Shown, TokenSet
from pretrain.parameters import param
from pretrain.sharding import gather_rows

HOW = ("pool", "static", "zeros", "drop")


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the embedding of the modality that may lack, then those of the others, of one width.

    tokens: how many pseudo-tokens. entries: of the pool that they are taken from.
    how: `pool`, those entries that are most like the mean of what is there; `static`, the same learned ones whatever is
    there; `zeros`; `drop`: none, so that its class token is all that is left.
    learn: whether prompts learn. The release looks its pool up where no gradient is kept, and so trains none.
    end: the token of a text that stands behind the pseudo-tokens; -1 for none.
    """

    dim: int = 768
    tokens: int = 49
    entries: int = 2048
    how: str = "pool"
    learn: bool = True
    end: int = -1

    fills = True

    def make(self, build, rngs):
        if self.how not in HOW:
            build.fail("how", self.how, f"must be one of {', '.join(HOW)}")
        if len(self.reads) < 2:
            build.fail("reads", self.reads, "name the embedding of what may lack, then those of what is there instead")
        for name in self.reads:
            if name not in build.parts or build.parts[name].gives != base.STREAM or build.width(name) != self.dim:
                build.fail("dim", self.dim, f"{name!r}, which it reads, must give a stream of this width")
        own = build.parts[self.reads[0]]
        if own.joint or len(own.reads) != 1 or own.reads[0] in build.parts:
            build.fail("reads", self.reads, f"{self.reads[0]!r} must embed one modality, and nothing else")
        if own.pads:
            build.fail("reads", self.reads, f"{self.reads[0]!r} embeds padding, so that nothing ever lacks: pad_id=-1")
        spec = build.spec(own.reads[0])
        if self.end >= 0 and (spec.dense or self.end >= spec.vocab_size):
            build.fail("end", self.end, f"{spec.name!r} has no such token; -1 is none")
        slots = spec.length - (self.end >= 0)
        if not 0 < self.tokens <= slots:
            build.fail("tokens", self.tokens, f"must be 1 … {slots}, the tokens of {spec.name!r} without its end")
        if self.how == "pool" and self.entries < self.tokens:
            build.fail("entries", self.entries, f"must be at least tokens={self.tokens}, which are taken from them")
        return Part(self, spec, build, rngs)


class Part(nnx.Module):
    """(own Stream `[B, N, D]`, Stream of another modality, …) → own Stream, in which an example without a token of its
    own has its class token, k pseudo-tokens and the end token, if others are there.

    q, the mean over the tokens that the others have; pseudo-tokens: the k rows of pool `[n, D]` with the greatest ⟨q,
    row⟩, the greatest first. No gradient passes the selection, that of the rows passes the look-up. They have no
    position, and stand for no modality. Parameters: `prompts [n, D]` of a pool, `[k, D]` of a static prompt.
    """

    def __init__(self, config: Config, spec, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.spec, self.index = spec, [m.name for m in build.modalities].index(spec.name)
        rows = {"pool": c.entries, "static": c.tokens}.get(c.how, 0)
        draw = lambda: 0.02 * jax.random.normal(rngs.params(), (rows, c.dim))
        self.prompts = param(draw(), fixed=not c.learn, anew=True) if rows else None

    def __call__(self, *streams: Stream, asked: Asked, given: tuple[str, ...] | None = None) -> Stream:
        """given: which of what it reads the streams are, where they are not all (`States.alone`)."""
        found = dict(zip(given or self.config.reads, streams))
        own, others = found.pop(self.config.reads[0], None), list(found.values())
        if not others:
            return own
        filled, there = self._filled(others, asked), _counted(others).any(1)
        own = self._nothing(asked) if own is None else own
        lacks = there & ~own.counted.any(1)
        pick = lambda a, b: jnp.where(lacks.reshape(-1, *[1] * (a.ndim - 1)), a, b)
        return jax.tree.map(pick, filled, own)

    def choose(self, others: list[Stream]):
        """The rows of the pool that are taken, int `[B, k]`."""
        query = mean(jnp.concatenate([s.x for s in others], axis=1), _counted(others))
        likeness = jnp.einsum("bd,nd->bn", query, gather_rows(self.prompts[...]), precision="highest")
        return jax.lax.top_k(jax.lax.stop_gradient(likeness), self.config.tokens)[1]

    def _filled(self, others: list[Stream], asked: Asked) -> Stream:
        """What stands for the modality, `[B, N, D]` each."""
        c, nothing = self.config, self._nothing(asked)
        first = nothing.x.shape[1] - self.spec.length  # behind a class token
        size, k = len(others[0].x), 0 if c.how == "drop" else c.tokens
        nothing = jax.tree.map(lambda a: jnp.broadcast_to(a, (size, *a.shape[1:])), nothing)
        if not k:
            return nothing
        last = first + k + (c.end >= 0)
        return nothing._replace(
            x=nothing.x.at[:, first : first + k].set(self._rows(others)),
            valid=nothing.valid.at[:, first:last].set(True),
            modality=nothing.modality.at[:, first:].set(NO_MODALITY),
        )

    def _rows(self, others: list[Stream]):
        """The pseudo-tokens, `[B, k, D]` or without B."""
        if self.prompts is None:
            return jnp.zeros((self.config.tokens, self.config.dim))
        rows = gather_rows(self.prompts[...])
        rows = rows if self.config.learn else jax.lax.stop_gradient(rows)
        return rows[self.choose(others)] if self.config.how == "pool" else rows

    def _nothing(self, asked: Asked) -> Stream:
        """The embedding of an example without tokens, `[1, N, D]`; the empty slots hold end tokens."""
        length = self.spec.length
        at, full = jnp.arange(length, dtype=jnp.int32), lambda n: jnp.full(length, n, jnp.int32)
        ids = at if self.spec.dense else full(max(self.config.end, 0))
        tokens = TokenSet(*(a[None] for a in (ids, full(self.index), at, full(0) > 0)))
        dense = {self.spec.name: jnp.zeros((1, length, self.spec.width))} if self.spec.dense else {}
        return getattr(asked.network, self.config.reads[0])(Shown(tokens, dense), asked=asked)


def _counted(streams: list[Stream]):
    return jnp.concatenate([s.counted for s in streams], axis=1)
