"""What several sensors saw of a place on several dates, as one token a place (SkySense, arXiv 2312.10115)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.blocks.base import Block, Given
from pretrain.models.layers import LayerNorm, Seen
from pretrain.models.parts import base, encoder
from pretrain.models.passes import Asked
from pretrain.models.stack import make_stack, run_stack
from pretrain.models.stream import Stream
from pretrain.ops.fused_attention import check as check_attention
from pretrain.parameters import param


@dataclasses.dataclass(frozen=True)
class Config(encoder.Config):
    """reads: the streams of sensors, each of frames of as many tokens, one frame behind another, and last the embedding
    of their dates (`parts.embed_one`, without positions), a token a frame, those of all sensors in their order.

    places: tokens of a frame. Other settings as of an encoder.
    """

    places: int = dataclasses.field(default=1, kw_only=True)

    def make(self, build, rngs):
        if len(self.reads) < 2:
            build.fail("reads", self.reads, "name one sensor or more, and the embedding of their dates")
        lengths = []
        for name in self.reads:
            if name not in build.parts or build.parts[name].gives != base.STREAM or build.width(name) != self.dim:
                build.fail("reads", name, f"must be a part that gives a stream of dim={self.dim}")
            lengths.append(build.spec(build.begins(name)[0]).length)
        *sensors, dates = lengths
        if self.places < 1 or any(n % self.places for n in sensors):
            build.fail("places", self.places, f"must divide the tokens of each sensor, which are {sensors}")
        if sum(sensors) != dates * self.places:
            frames = sum(sensors) // self.places
            build.fail("reads", self.reads, f"sensors have {frames} frames together, {self.reads[-1]!r} {dates} dates")
        for key in ("causal", "registers", "adapter", "slopes"):
            if getattr(self, key):
                build.fail(key, getattr(self, key), "an encoder has it; leave it out here")
        width, how = self.dim // self.heads, build.numerics
        check_attention(how.attention, dtype=how.dtype, width=width, biased=False, varied=False)
        return Part(self, build, rngs)


class Part(nnx.Module):
    """(Stream `[B, T_i · places, D]`, …, Stream of dates `[B, Σ T_i, D]`) → Stream `[B, places, D]`.

    Of each place a learned token and what all sensors say of it, the date added to each, run through a transformer of
    their own, without positions; the first token is what comes out. Frames that are empty are not seen.
    """

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.run, block, branches = build.run, c.block(build), c.branches(build)
        self.token = param(0.02 * jax.random.normal(rngs.params(), (c.dim,)))
        self.blocks = make_stack(lambda r: Block(block, branches, rngs=r), c.depth, rngs)
        self.norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps)

    def __call__(self, *streams: Stream, asked: Asked) -> Stream:
        (*sensors, dates), places = streams, self.config.places
        size, dim = len(dates.x), self.config.dim
        frames = lambda of: jnp.concatenate([x.reshape(size, -1, places, *x.shape[2:]) for x in map(of, sensors)], 1)
        x = frames(lambda s: s.x) + dates.x[:, :, None]
        x, seen = (
            jnp.moveaxis(a, 2, 1).reshape(size * places, -1, *a.shape[3:]) for a in (x, frames(lambda s: s.valid))
        )
        token = jnp.broadcast_to(self.token[...], (len(x), 1, dim)).astype(x.dtype)
        x, seen = jnp.concatenate([token, x], 1), jnp.pad(seen, ((0, 0), (1, 0)), constant_values=True)
        x, _ = run_stack(self.blocks, x, Given(Seen(seen[:, None, None])), **dict(self.run))
        valid = seen[:, 1:].any(1).reshape(size, places)
        first = sensors[0]
        return Stream(
            self.norm(x[:, 0]).reshape(size, places, dim), valid, first.modality[:, :places], first.position[:, :places]
        )  # fmt: skip
