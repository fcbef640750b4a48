"""Autoencoding against a discriminator of patches, as VQGAN is trained (arXiv 2012.09841)."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.convolution import Conv, GroupNorm
from pretrain.models.passes import Leaf
from pretrain.objectives import reconstruction
from pretrain.objectives.corruptions import Begun
from pretrain.parameters import variables

GAME = ("generator", "discriminator")
GROUPS = 8


@dataclasses.dataclass(frozen=True)
class Objective(reconstruction.Objective):
    """What `reconstruction` has, and the terms, each a mean over patches and pictures,

    `generator`: −D(x̂), times `weight`, whose gradient is the tokenizer's alone;
    `discriminator`: ½ max(0, 1 − D(x)) + ½ max(0, 1 + D(x̂)), the hinge loss, whose gradient is D's alone.

    So one gradient of one loss trains both, and accumulates exactly. The discriminator D is the objective's own and is
    saved with it; `optim.rules` of the pattern `^objective/NAME/discriminator/` gives it another learning rate.

    weight: constant, where VQGAN balances gradients at the decoder's last layer. start: step, from 0, before which both
    terms are 0 in training. width, layers: of D, see `Discriminator`.
    """

    weight: float = 0.1
    start: int = 0
    width: int = 64
    layers: int = 3

    def __post_init__(self):
        super().__post_init__()

        def fail(key, remedy):
            raise ValueError(f"{self.where}.{key}={getattr(self, key)!r}: {remedy}")

        if self.maps or self.vectors:
            raise ValueError(f"{self.where}: it judges pictures; {self.context.modalities[0].name!r} holds none")
        if self.weight < 0 or self.start < 0:
            fail("weight" if self.weight < 0 else "start", "must not be negative")
        if self.layers < 1 or self.width < 1 or self.width % GROUPS:
            fail("layers" if self.layers < 1 else "width", f"must be positive, the width a multiple of {GROUPS}")
        if min(self.context.modalities[0].shape[-3:-1]) < 3 * 2**self.layers:
            fail("layers", f"needs pictures of at least 3 · 2^layers = {3 * 2**self.layers} pixels: take fewer")

    def init(self, key) -> dict:
        return super().init(key) | {"discriminator": variables(self._make(key))}

    def passes(self, train: bool) -> dict:
        return super().passes(train) | {"begun": Leaf(Begun(self.start))}

    def weights(self, data):
        counts = super().weights(data)
        return counts | dict.fromkeys(GAME, counts["psnr"])

    def totals(self, params, outputs, *, train, run):
        out = super().totals(params, outputs, train=train, run=run)
        return out | {name: jnp.where(outputs["begun"][0], out[name], 0.0) for name in GAME}

    def distances(self, params, made, target) -> dict:
        fixed = jax.lax.stop_gradient
        judge = lambda params, x: nnx.merge(self._graph, params)(reconstruction.pictures(x))
        mine = params["discriminator"]
        real, fake = judge(mine, target), judge(mine, fixed(made))
        hinge = jax.nn.relu(1 - real) + jax.nn.relu(1 + fake)
        game = {"generator": -judge(fixed(mine), made), "discriminator": 0.5 * hinge}
        return super().distances(params, made, target) | {k: v.reshape(len(made), -1).mean(1) for k, v in game.items()}

    def loss_weight(self, name) -> float:
        return {"generator": self.weight, "discriminator": 1.0}.get(name, super().loss_weight(name))

    @functools.cached_property
    def _graph(self):
        return nnx.split(nnx.eval_shape(lambda: self._make(0)))[0]

    def _make(self, key):
        return Discriminator(self.context.modalities[0].shape[-1], self.width, self.layers, rngs=nnx.Rngs(key))


class Discriminator(nnx.Module):
    """PatchGAN (arXiv 1611.07004): 4 × 4 convolutions, each of `layers` of stride 2, then two of stride 1.

    The width doubles up to eightfold. Groups of channels are normalised where the paper normalises over the batch: what
    it says of one picture hangs on no other.
    """

    def __init__(self, channels: int, width: int, layers: int, *, rngs: nnx.Rngs):
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        conv = functools.partial(Conv, size=4, pad=1, dtype=jnp.float32, rngs=rngs)
        self.conv_in = conv(channels, width, stride=2)
        self.convs = nnx.List(
            [conv(a, b, stride=1 if i == layers else 2) for i, (a, b) in enumerate(itertools.pairwise(widths), 1)]
        )
        self.norms = nnx.List([GroupNorm(w, GROUPS) for w in widths[1:]])
        self.conv_out = conv(widths[-1], 1)

    def __call__(self, x):
        """x `[B, H, W, C]` in [-1, 1] → `[B, h, w, 1]`, the greater the more it looks like data."""
        x = jax.nn.leaky_relu(self.conv_in(x), 0.2)
        for conv, norm in zip(self.convs, self.norms):
            x = jax.nn.leaky_relu(norm(conv(x)), 0.2)
        return self.conv_out(x)
