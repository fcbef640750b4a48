"""Streams that read each other, block by block; how, is a file of `models/blocks` with a class `Fusion`."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.frozen import load
from pretrain.models.blocks.base import Given
from pretrain.models.layers import LayerNorm, Seen
from pretrain.models.parts import base, encoder
from pretrain.models.passes import Asked
from pretrain.models.stack import LAYERS, make_stack, run_stack
from pretrain.models.stream import Stream
from pretrain.ops.fused_attention import check as check_attention

STREAMS = "streams"  # what a fusion gives: a tuple of Streams, of which `parts.pick` takes one


@dataclasses.dataclass(frozen=True)
class Config(encoder.Config):
    """reads: what gives the streams, two or more of one width. topology: the file of `models/blocks` whose `Fusion` its
    blocks are, such as `shared_cross`. Other settings as of an encoder.
    """

    topology: str = "shared_cross"

    gives = STREAMS
    edited = False

    def make(self, build, rngs):
        key = f"model.parts: {build.name!r}: topology"
        topology = load("pretrain.models.blocks", self.topology, key, "Fusion").Fusion
        if len(self.reads) < 2:
            build.fail("reads", self.reads, "name two parts or more; one stream alone takes an encoder")
        for name in self.reads:
            if build.parts[name].gives != base.STREAM or build.width(name) != self.dim:
                build.fail("dim", self.dim, f"{name!r}, which it reads, must give a stream of this width")
        for key in ("causal", "registers", "adapter", "slopes"):
            if getattr(self, key):
                build.fail(key, getattr(self, key), "an encoder has it; leave it out here")
        width, how = self.dim // self.heads, build.numerics
        check_attention(how.attention, dtype=how.dtype, width=width, biased=False, varied=False)
        return Part(self, topology, build, rngs)


class Part(nnx.Module):
    """(Stream, …) → as many Streams of the same tokens, in the same order; x is normalised, `layers` are not."""

    def __init__(self, config: Config, topology, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.run, block = build.run, c.block(build)
        self.blocks = make_stack(lambda r: topology(block, c.reads, rngs=r), c.depth, rngs)
        self.norms = nnx.Dict({name: LayerNorm(c.dim, bias=c.bias, eps=c.eps) for name in c.reads})

    def __call__(self, *streams: Stream, asked: Asked) -> tuple[Stream, ...]:
        given = Given(tuple(Seen(stream.valid[:, None, None, :]) for stream in streams))
        xs, outputs = run_stack(
            self.blocks, tuple(s.x for s in streams), given, layers=asked.layers, **dict(self.run)
        )  # fmt: skip
        layers = [jnp.moveaxis(x, 0, 1) for x in outputs[LAYERS]] if asked.layers else [None] * len(xs)
        named = zip(streams, self.config.reads, xs, layers)
        return tuple(s._replace(x=self.norms[name](x), layers=each) for s, name, x, each in named)
