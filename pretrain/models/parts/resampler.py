"""Learned queries that read a stream: a fixed number of tokens of it."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models import blocks
from pretrain.models.blocks.base import Block, Given
from pretrain.models.layers import LayerNorm, Seen
from pretrain.models.parts import base, encoder
from pretrain.models.passes import Asked
from pretrain.models.stack import make_stack, run_stack
from pretrain.models.stream import NO_MODALITY, Stream
from pretrain.ops.fused_attention import check as check_attention
from pretrain.parameters import mark, param


@dataclasses.dataclass(frozen=True)
class Config(encoder.Config):
    """reads: the stream. queries: how many. Other settings as of an encoder; blocks are self-attention of the queries,
    cross-attention to the stream, MLP.
    """

    queries: int = 77

    edited = False

    def branches(self, build):
        return blocks.DECODER

    def make(self, build, rngs):
        if self.queries < 1:
            build.fail("queries", self.queries, "must be at least 1")
        for key in ("causal", "registers", "adapter", "slopes"):
            if getattr(self, key):
                build.fail(key, getattr(self, key), "an encoder has it; leave it out here")
        if build.width(self.reads[0]) != self.dim:
            build.fail("dim", self.dim, f"{self.reads[0]!r} gives tokens of width {build.width(self.reads[0])}")
        how = build.numerics
        check_attention(how.attention, dtype=how.dtype, width=self.dim // self.heads, biased=False, varied=False)
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Stream `[B, N, D]` → Stream `[B, queries, D]`, which stands for no modality. Parameters: `queries [n, D]`, from a
    standard normal, `blocks` and `norm`. Where an example has no token its queries read a mean of what stands there."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.run, block = build.run, c.block(build)
        self.queries = param(jax.random.normal(rngs.params(), (c.queries, c.dim)))
        self.blocks = make_stack(lambda r: Block(block, c.branches(build), rngs=r), c.depth, rngs)
        if self.blocks is not None:
            mark(self.blocks, depth=0)  # `optim.layer_decay` is for encoders
        self.norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps)

    def __call__(self, stream: Stream, asked: Asked) -> Stream:
        shape = len(stream.x), self.config.queries
        given = Given(context=stream.x, context_seen=Seen(stream.valid[:, None, None, :]))
        x = jnp.broadcast_to(self.queries[...], (*shape, self.config.dim))
        x, _ = run_stack(self.blocks, x, given, **dict(self.run))
        valid = jnp.broadcast_to(stream.valid.any(1, keepdims=True), shape)
        position = jnp.broadcast_to(jnp.arange(self.config.queries), shape)
        return Stream(self.norm(x), valid, jnp.full(shape, NO_MODALITY), position)
