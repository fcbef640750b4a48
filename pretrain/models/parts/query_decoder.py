"""A transformer decoder of learned queries, which look at each other and at what an encoder gives (DETR)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models import blocks
from pretrain.models.blocks.base import Block, Given
from pretrain.models.layers import LayerNorm, Seen
from pretrain.models.parts import base, encoder
from pretrain.models.passes import Asked
from pretrain.models.stack import LAYERS, make_stack, run_stack
from pretrain.models.stream import NO_MODALITY, Stream
from pretrain.ops.fused_attention import check as check_attention
from pretrain.parameters import mark, param


@dataclasses.dataclass(frozen=True)
class Config(encoder.Config):
    """reads: the encoder whose output the queries look at. queries: how many. Other settings as of an encoder."""

    queries: int = 100

    edited = False

    def branches(self, build):
        return blocks.DECODER

    def make(self, build, rngs):
        for key in ("causal", "registers", "adapter", "slopes"):
            if getattr(self, key):
                build.fail(key, getattr(self, key), "an encoder has it; leave it out here")
        for key in ("queries", "depth"):
            if getattr(self, key) < 1:
                build.fail(key, getattr(self, key), "must be at least 1")
        if build.width(self.reads[0]) != self.dim:
            given = build.width(self.reads[0])
            build.fail("dim", self.dim, f"{self.reads[0]!r}, which it reads, gives tokens of width {given}")
        how = build.numerics
        check_attention(how.attention, dtype=how.dtype, width=self.dim // self.heads, biased=False, varied=False)
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Stream `[B, N, D]` → Stream `[B, queries, D]`; x is normalised, `layers` are not (DETR, arXiv 2005.12872,
    section 3.2). With `layer` it is given a stream of its own, and gives that of this block, normalised alike.

    What the queries look at has its positions added again, where it has some.
    """

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.run, block, branches = build.run, c.block(build), c.branches(build)
        self.queries = param(jax.random.normal(rngs.params(), (c.queries, c.dim)))
        self.blocks = mark(make_stack(lambda r: Block(block, branches, rngs=r), c.depth, rngs), depth=0)
        self.norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps)

    def __call__(self, stream: Stream, asked: Asked, layer: int | None = None) -> Stream:
        if layer is not None:
            return stream._replace(x=self.norm(stream.layers[:, layer]), layers=None)
        context = stream.x if stream.placed is None else stream.x + stream.placed
        size = len(context), self.config.queries
        x = jnp.broadcast_to(self.queries[...], (*size, self.config.dim))
        given = Given(context=context, context_seen=Seen(stream.valid[:, None, None, :]))
        x, outputs = run_stack(self.blocks, x, given, layers=asked.layers, **dict(self.run))
        layers = jnp.moveaxis(outputs[LAYERS], 0, 1) if asked.layers else None
        nowhere = jnp.full(size, NO_MODALITY)
        position = jnp.broadcast_to(jnp.arange(size[1]), size)
        return Stream(self.norm(x), jnp.ones(size, bool), nowhere, position, layers=layers)
