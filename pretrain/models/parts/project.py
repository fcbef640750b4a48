"""Projections into the space in which modalities are compared."""

import dataclasses

from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base, mlp
from pretrain.models.passes import Asked
from pretrain.models.stream import unit
from pretrain.parameters import mark


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """dim: of the embeddings. of: the modalities that have a projection of their own; () for one projection for all
    that comes. bias: of the projections. identity: only to unit length.
    hidden: widths of ReLU layers before the last, all of them with a bias (SimCLR, arXiv 2002.05709, section 2); () for
    a linear projection.
    """

    dim: int = 512
    of: tuple[str, ...] = ()
    bias: bool = False
    identity: bool = False
    hidden: tuple[int, ...] = ()

    gives = base.EMBEDDING

    def serves(self, modality: str) -> bool:
        return not self.of or modality in self.of

    def make(self, build, rngs):
        given = build.width(self.reads[0])
        if self.identity and given != self.dim:
            build.fail("dim", self.dim, f"identity=True leaves embeddings of dim={given}; make them equal, or project")
        if self.hidden and (self.identity or min(self.hidden) < 1):
            build.fail("hidden", self.hidden, "needs positive widths, and identity=False")
        return Part(self, given, build, rngs)


class Part(nnx.Module):
    """`[B, D]` → `[B, dim]` of unit length, or with tokens=True Stream `[B, N, D]` → `[B, N, dim]`."""

    def __init__(self, config: Config, given: int, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        # Into another space than a loaded model's a projection starts anew.
        deep = lambda: mlp.Layers((given, *c.hidden, c.dim), "relu", "none", build.dtype, rngs)
        linear = lambda: Linear(given, c.dim, bias=c.bias, dtype=build.dtype, rngs=rngs)
        make = lambda: mark(deep() if c.hidden else linear(), anew=True)
        self.linear = None if c.identity or c.of else make()
        self.each = nnx.Dict({name: make() for name in c.of}) if c.of else None

    def __call__(self, given, asked: Asked, modality: str | None = None, tokens: bool = False, raw: bool = False):
        """modality: whose projection, where each has its own. tokens: of a stream, instead of the vector of it. raw: of
        the length that it has, instead of 1."""
        x = given.x if tokens else given
        if not self.config.identity:
            x = (self.linear if self.each is None else self.each[modality])(x)
        return x if raw else unit(x)
