"""One of the streams that a fusion gives."""

import dataclasses

from flax import nnx

from pretrain.models.parts import base, fusion
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the fusion. of: the part whose stream is taken, one of those that the fusion reads."""

    of: str = ""
    dim: int = 768

    def make(self, build, rngs):
        fused = build.parts[self.reads[0]]
        if fused.gives != fusion.STREAMS:
            build.fail("reads", self.reads, "it takes a stream of several: name a fusion")
        if self.of not in fused.reads:
            build.fail("of", self.of, f"{self.reads[0]!r} reads {', '.join(fused.reads)}: name one of these")
        if self.dim != fused.dim:
            build.fail("dim", self.dim, f"{self.reads[0]!r} gives tokens of width {fused.dim}")
        return Part(fused.reads.index(self.of))


class Part(nnx.Module):
    """(Stream, …) → Stream. It has no parameters."""

    def __init__(self, index: int):
        self.index = index

    def __call__(self, streams, asked: Asked) -> Stream:
        return streams[self.index]
