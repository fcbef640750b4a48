"""LXMERT's cross-modality layer (arXiv 1908.07490, section 2.2): one cross-attention for all directions."""

from flax import nnx

from pretrain.models.blocks.attention import CrossAttention, SelfAttention
from pretrain.models.blocks.base import Block, Config, Given
from pretrain.models.blocks.mlp import Mlp
from pretrain.models.blocks.streams import alone, beside


class Fusion(nnx.Module):
    """x_i += cross(x_i; all x_j, j ≠ i), for every stream i from what the streams were before any of them changed, and
    with the same parameters; then x_i += attn_i(x_i) and x_i += mlp_i(x_i), with parameters of each stream's own.

    Norms come first, as in all blocks here; the cross-attention's are shared with it. LXMERT has them last.
    """

    def __init__(self, config: Config, names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.names = names
        self.cross_attn = CrossAttention(config, rngs=rngs)
        branches = {"attn": SelfAttention, "mlp": Mlp}
        self.each = nnx.Dict({name: Block(config, branches, rngs=rngs) for name in names})

    def __call__(self, xs: tuple, given: Given):
        found = [self.cross_attn(x, beside(xs, given, i))[0] for i, x in enumerate(xs)]
        xs = [x + y for x, y in zip(xs, found)]
        return tuple(self.each[name](x, alone(given, i))[0] for i, (name, x) in enumerate(zip(self.names, xs))), {}
