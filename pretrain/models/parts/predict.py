"""Numbers predicted of a vector, or of every token of a stream: logits of classes, or features."""

import dataclasses

from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base
from pretrain.models.parts.transform import Transform
from pretrain.models.passes import Asked

NUMBERS = "numbers"


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: a vector or a stream. dim: how many numbers, such as classes. hidden: width of a `transform.Transform`
    before the last layer, 0 for none.
    """

    dim: int = 2
    hidden: int = 0
    eps: float = 1e-12

    gives = NUMBERS

    def make(self, build, rngs):
        if self.hidden < 0:
            build.fail("hidden", self.hidden, "must not be negative; 0 is none")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """`[B, D]` → `[B, dim]`, or Stream `[B, N, D]` → `[B, N, dim]`."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c, given = config, build.width(config.reads[0])
        self.tokens = build.parts[c.reads[0]].gives == base.STREAM
        self.hidden = Transform(given, c.hidden, c.eps, build.dtype, rngs) if c.hidden else None
        self.linear = Linear(c.hidden or given, c.dim, bias=True, dtype=build.dtype, rngs=rngs)

    def __call__(self, given, asked: Asked):
        x = given.x if self.tokens else given
        return self.linear(x if self.hidden is None else self.hidden(x))
