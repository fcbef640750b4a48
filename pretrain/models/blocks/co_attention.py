"""Co-attention: each stream reads itself, then the others (ViLBERT, arXiv 1908.02265, section 2.1; METER, arXiv
2111.02387, section 3.2, whose order of the two this is)."""

from flax import nnx

from pretrain.models.blocks import DECODER
from pretrain.models.blocks.base import Block, Config, Given
from pretrain.models.blocks.streams import beside


class Fusion(nnx.Module):
    """x_i += attn_i(x_i); x_i += cross_i(x_i; all x_j, j ≠ i); x_i += mlp_i(x_i), with parameters of each stream's own,
    x_j what the streams were before any of them changed.

    Norms come first, as in all blocks here.
    """

    def __init__(self, config: Config, names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.names = names
        self.each = nnx.Dict({name: Block(config, DECODER, rngs=rngs) for name in names})

    def __call__(self, xs: tuple, given: Given):
        return tuple(self.each[name](x, beside(xs, given, i))[0] for i, (name, x) in enumerate(zip(self.names, xs))), {}
