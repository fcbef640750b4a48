"""The tokens of one stream as what they find among those of another: one cross-attention."""

import dataclasses

from flax import nnx

from pretrain.models import blocks
from pretrain.models.layers import Attention, LayerNorm, Linear, Seen
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the stream that asks, then the one that is read, which a layer of its own brings to `dim` where it is of
    another width.
    """

    dim: int = 768
    heads: int = 12
    bias: bool = True
    eps: float = 1e-6

    def make(self, build, rngs):
        if len(self.reads) != 2 or any(build.parts[name].gives != base.STREAM for name in self.reads):
            build.fail("reads", self.reads, "name two parts that give streams: which asks, and which is read")
        if self.dim % self.heads:
            build.fail("dim", self.dim, f"must be divisible by heads={self.heads}")
        if build.width(self.reads[0]) != self.dim:
            build.fail("dim", self.dim, f"{self.reads[0]!r}, which asks, gives tokens of another width")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """(Stream `[B, N, D]`, Stream `[B, M, E]`) → Stream of the first one's tokens, attn(norm x; norm y): without x
    itself (IRRA, arXiv 2303.12501, section 3.2)."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c, given = config, build.width(config.reads[1])
        how = blocks.Config(c.dim, c.heads, bias=c.bias, eps=c.eps, attention="xla", dtype=build.dtype)
        self.bring = None if given == c.dim else Linear(given, c.dim, bias=False, dtype=build.dtype, rngs=rngs)
        self.asks, self.read = (LayerNorm(c.dim, bias=c.bias, eps=c.eps) for _ in range(2))
        self.attn = Attention(how, cross=True, rngs=rngs)

    def __call__(self, stream: Stream, read: Stream, asked: Asked) -> Stream:
        y = self.read(read.x if self.bring is None else self.bring(read.x))
        found = self.attn.mix(
            self.attn.project_q(self.asks(stream.x)), *self.attn.project_kv(y), Seen(read.valid[:, None, None, :])
        )
        return stream._replace(x=found, layers=None)
