"""4M's decoder (arXiv 2312.06647, section 2.2): queries that see their own modality and an encoder's output."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.models import blocks
from pretrain.models.blocks.base import Block, Given
from pretrain.models.layers import LayerNorm, Linear, Seen
from pretrain.models.parts import base, encoder
from pretrain.models.passes import Asked
from pretrain.models.stack import PerLayer, make_stack, open_cache, run_stack
from pretrain.models.stream import Stream
from pretrain.ops.fused_attention import check as check_attention
from pretrain.ops.positions import distances
from pretrain.parameters import mark


@dataclasses.dataclass(frozen=True)
class Config(encoder.Config):
    """reads: what embeds its queries, and the encoder whose output it looks at. Settings as of an encoder."""

    edited = False

    def branches(self, build):
        return blocks.DECODER

    def make(self, build, rngs):
        if self.registers or self.adapter or self.causal:
            build.fail("registers, adapter, causal", (self.registers, self.adapter, self.causal), "an encoder has them")
        for name in self.reads:
            if build.width(name) != self.dim:
                build.fail("dim", self.dim, f"{name!r}, which it reads, gives tokens of width {build.width(name)}")
        width = self.dim // self.heads
        how, dtype = build.numerics.attention, build.numerics.dtype
        check_attention(how, dtype=dtype, width=width, biased=bool(self.slopes), varied=True)
        return Part(self, build, rngs)


class Part(nnx.Module):
    """(queries Stream `[B, M]`, encoder Stream `[B, N]`) → Stream `[B, M]`.

    A modality's queries never see another modality's.
    """

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.run, self.modalities, block = build.run, build.modalities, c.block(build)
        branches = c.branches(build)
        self.context = Linear(c.dim, c.dim, bias=True, dtype=build.dtype, rngs=rngs)
        if c.mimetic:
            self.context.kernel[...] = jnp.eye(c.dim)
        self.blocks = make_stack(lambda r: Block(block, branches, rngs=r), c.depth, rngs)
        if self.blocks is not None:
            mark(self.blocks, depth=0)  # `optim.layer_decay` is for encoders
        self.norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps)

    def __call__(self, queries: Stream, encoded: Stream, asked: Asked) -> Stream:
        given = self._given(encoded)._replace(seen=Seen(self_mask(queries, self.modalities)), modality=queries.kinds)
        if self.config.slopes:
            here = queries.where
            given = given._replace(
                seen=given.seen._replace(distance=distances(here, here)),
                context_seen=given.context_seen._replace(distance=distances(here, encoded.where)),
            )
        x, _ = run_stack(self.blocks, queries.x, given, **dict(self.run))
        return queries._replace(x=self.norm(x))

    def open_cache(self, encoded: Stream, length: int):
        """What decoding token by token remembers of a sequence of up to `length` tokens, and of the context."""
        return open_cache(self.blocks, self._given(encoded), length, dict(self.run)["dtype"])

    def extend(self, token: Stream, encoded: Stream, at, cache):
        """Decodes one token `[B, 1]` of a sequence at index `at`: (x `[B, 1, D]`, the cache with it).

        Equals the last row of a call with the whole prefix.
        """
        given = self._given(encoded)._replace(at=at, modality=token.kinds)
        x, outputs = run_stack(self.blocks, token.x, given, PerLayer(cache=cache), **dict(self.run))
        return self.norm(x), outputs.get("cache", cache)

    def _given(self, encoded: Stream) -> Given:
        """What the blocks read of an encoder's output."""
        context = self.context(encoded.x) + encoded.placed
        return Given(context=context, context_seen=Seen(encoded.valid[:, None, None, :]))


def self_mask(queries: Stream, modalities: tuple[Modality, ...]):
    """bool `[B, 1, M, M]`: who may look at whom among decoder queries.

    Tokens see their own modality only; the tokens of a sequence only those that stand before them.
    """
    causal = jnp.asarray([m.autoregressive for m in modalities])[queries.modality]
    same = queries.modality[:, :, None] == queries.modality[:, None, :]
    past = queries.position[:, None, :] <= queries.position[:, :, None]
    return (same & (past | ~causal[:, :, None]) & queries.valid[:, None, :])[:, None]
