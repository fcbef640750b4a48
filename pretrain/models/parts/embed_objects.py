"""The embedding of objects that were detected in a picture: what each looks like and where it lies."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import LayerNorm, Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.models.tokens import Shown


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: two modalities of `vectors` with a row for each object: features, and boxes, the objects' places."""

    dim: int = 768
    eps: float = 1e-12

    def serves(self, modality: str) -> bool:
        return False  # neither of the two is there without the other

    def make(self, build, rngs):
        specs = [build.spec(name) for name in self.reads]
        if len(specs) != 2 or any(m.form != "vectors" for m in specs) or specs[0].length != specs[1].length:
            build.fail("reads", self.reads, "name features and boxes, modalities of vectors with as many rows")
        return Part(self, specs, build, rngs)


class Part(nnx.Module):
    """Shown of the features, with the rows of both → Stream: ½ (norm(W f) + norm(V box)), an object a token (LXMERT,
    arXiv 1908.07490, section 2.1, equation 1). Objects have no order, and no other position."""

    def __init__(self, config: Config, specs, build: base.Build, rngs: nnx.Rngs):
        self.names = tuple(m.name for m in specs)
        make = lambda m: Linear(m.width, config.dim, bias=True, dtype=build.dtype, rngs=rngs)
        self.linear = nnx.Dict({m.name: make(m) for m in specs})
        self.norm = nnx.Dict({m.name: LayerNorm(config.dim, bias=True, eps=config.eps) for m in specs})

    def __call__(self, shown: Shown, asked: Asked) -> Stream:
        """shown: tokens `[B, N]` of the features, whose ids say the objects."""
        tokens = shown.tokens
        x = sum(self.norm[name](self.linear[name](shown.dense[name])) for name in self.names) / 2
        x = jnp.take_along_axis(x, tokens.ids[..., None], axis=1)
        x = jnp.where(tokens.valid[..., None], x, 0.0)
        return Stream(x, tokens.valid, tokens.modality, tokens.position)
