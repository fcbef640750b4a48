"""A multilayer perceptron on every token by itself: the decoder of a state, the head of a class."""

import dataclasses
import itertools

import jax
from flax import nnx

from pretrain.models.layers import ACTIVATIONS, Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream

FUNCTIONS = ACTIVATIONS | {"sigmoid": jax.nn.sigmoid, "none": lambda x: x}


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: what gives the tokens. dim: width of what it writes, such as the number of classes.

    hidden: widths of the layers before the last. activation: behind each of those; final: behind the last
    (`FUNCTIONS`).
    """

    dim: int = 2
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    final: str = "none"

    def make(self, build, rngs):
        check(self, build)
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Stream `[B, N, D]` → Stream `[B, N, dim]` of the same tokens."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = config
        sizes = build.width(c.reads[0]), *c.hidden, c.dim
        self.layers = Layers(sizes, c.activation, c.final, build.dtype, rngs)

    def __call__(self, stream: Stream, asked: Asked) -> Stream:
        return stream._replace(x=self.layers(stream.x), placed=None, layers=None)


class Layers(nnx.Module):
    """`[…, sizes[0]]` → `[…, sizes[-1]]`: linear layers, `activation` behind each, `final` behind the last."""

    def __init__(self, sizes, activation: str, final: str, dtype, rngs: nnx.Rngs):
        self.linears = nnx.List([Linear(a, b, bias=True, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.functions = (activation,) * (len(sizes) - 2) + (final,)

    def __call__(self, x):
        for linear, name in zip(self.linears, self.functions):
            x = FUNCTIONS[name](linear(x))
        return x


def check(config, build: base.Build):
    """ValueError for widths and activations that a part of such layers cannot have."""
    for key in ("activation", "final"):
        if getattr(config, key) not in FUNCTIONS:
            build.fail(key, getattr(config, key), f"must be one of {', '.join(sorted(FUNCTIONS))}")
    if config.dim < 1:
        build.fail("dim", config.dim, "must be at least 1")
    if any(width < 1 for width in config.hidden):
        build.fail("hidden", config.hidden, "widths must be at least 1; () for a single linear layer")
