"""Skills in the place of a block's MLP: experts that a token's modality chooses (SkillNet, arXiv 2205.06126)."""

import jax.numpy as jnp
from flax import nnx

from pretrain.models.blocks.base import Config, Given
from pretrain.models.layers import ACTIVATIONS, LayerNorm, Mlp
from pretrain.ops.experts import Experts, sparse_experts
from pretrain.parameters import mark


class Skills(nnx.Module):
    """The mean of mlp_s(norm x) over the skills s of a token's modality; zeros of a token that is of none.

    The route is given, nothing learns it: it needs no gate and no loss that balances it. What is not a token's skill is
    not computed for it. The norm is common to all skills.
    """

    def __init__(self, config: Config, *, names: tuple[str, ...], route: tuple, rngs: nnx.Rngs):
        """names: of the skills. route: of every modality of the run, in its order, the numbers of its skills, -1 up to
        as many as the others have."""
        c = config
        self.names, self.route, self.dtype = names, route, c.dtype
        self.activation = "silu" if c.gated else c.activation
        make = lambda: Mlp(c.dim, c.mlp_ratio, gated=c.gated, bias=c.bias, dtype=c.dtype, rngs=rngs)
        self.each = mark(nnx.Dict({name: make() for name in names}), anew=True)
        self.norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps)

    def __call__(self, x, given: Given, memory=None):
        # `NO_MODALITY`, -1, is the last row.
        route = jnp.asarray([*self.route, [-1] * len(self.route[0])])[given.modality]
        activate = ACTIVATIONS[self.activation]
        return sparse_experts(self.norm(x), route, self._experts(), activate, dtype=self.dtype), {}, None

    def open(self, given: Given, length: int):
        return None

    def _experts(self) -> Experts:
        def stack(layer, what):
            found = [getattr(getattr(self.each[n], layer), what, None) for n in self.names]
            return None if found[0] is None else jnp.stack([p[...] for p in found])

        layers = ("fc1", "fc2", "fc3")
        return Experts(*(stack(layer, "kernel") for layer in layers), *(stack(layer, "bias") for layer in layers))
