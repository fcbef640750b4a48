"""The MLP of a block, on each token alone."""

from flax import nnx

from pretrain.models.blocks.base import Config, Given
from pretrain.models.layers import LayerNorm
from pretrain.models.layers import Mlp as Layers


class Mlp(Layers):
    """mlp(norm x)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        super().__init__(
            c.dim, c.mlp_ratio, gated=c.gated, bias=c.bias, activation=c.activation, dtype=c.dtype, rngs=rngs
        )  # fmt: skip
        self.norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps)

    def __call__(self, x, given: Given, memory=None):
        return super().__call__(self.norm(x)), {}, None

    def open(self, given: Given, length: int):
        return None
