"""The last tokens of several streams, added up and projected."""

import dataclasses

from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: streams of one width that end in the same tokens, such as what a language model gives and what it was
    given. tokens: how many of the last; dim: of what it writes.
    """

    tokens: int = 1
    dim: int = 512

    def make(self, build, rngs):
        if len({build.width(name) for name in self.reads}) != 1:
            widths = ", ".join(f"{name!r} {build.width(name)}" for name in self.reads)
            build.fail("reads", self.reads, f"their tokens are added, so give streams of one width; it is of {widths}")
        if self.tokens < 1:
            build.fail("tokens", self.tokens, "must be at least 1")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """(Stream `[B, N_i, D]`, …) → Stream `[B, tokens, dim]` of W Σ_i x_i + b; the rest is as the first one has it."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        self.tokens = config.tokens
        self.linear = Linear(build.width(config.reads[0]), config.dim, bias=True, dtype=build.dtype, rngs=rngs)

    def __call__(self, *streams: Stream, asked: Asked) -> Stream:
        last, first = slice(-self.tokens, None), streams[0]
        x = self.linear(sum(s.x[:, last] for s in streams))
        return Stream(x, first.valid[:, last], first.modality[:, last], first.position[:, last])
