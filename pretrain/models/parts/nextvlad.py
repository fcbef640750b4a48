"""NeXtVLAD: one vector of the tokens of streams, by their residuals from learned clusters (arXiv 1811.05014)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import LayerNorm, Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.ops.matmul import matmul
from pretrain.parameters import param

POWERS = (1, 2)


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: what gives the streams, of one width; of an example any of them is enough. dim: of the vector.

    clusters; expansion: how much wider tokens are made; groups: into which they are cut, each assigned by itself.
    power: of the norm that makes each cluster's residual 1 long: 2, as published, or 1.
    reduction: by which the layer between is narrower in the gate on all numbers; 0 for no gate.
    """

    dim: int = 768
    clusters: int = 64
    expansion: int = 2
    groups: int = 16
    power: int = 2
    reduction: int = 64

    gives, fills = base.VECTOR, True

    def make(self, build, rngs):
        width = build.width(self.reads[0])
        for name in self.reads:
            if name not in build.parts or build.parts[name].gives != base.STREAM or build.width(name) != width:
                build.fail("reads", name, "name parts that give streams of one width")
        for key in ("clusters", "expansion", "groups"):
            if getattr(self, key) < 1:
                build.fail(key, getattr(self, key), "must be at least 1")
        if self.expansion * width % self.groups:
            build.fail("groups", self.groups, f"must divide {self.expansion * width}, the width of expanded tokens")
        if self.power not in POWERS:
            build.fail("power", self.power, f"must be one of {POWERS}")
        size = self.clusters * self.expansion * width // self.groups
        if not 0 <= self.reduction <= size:
            build.fail("reduction", self.reduction, f"must be 0, or at most {size}, how many numbers are gated")
        return Part(self, width, size, build, rngs)


class Part(nnx.Module):
    """(Stream `[B, N_i, D]`, …) → `[B, dim]`; zeros where an example has nothing.

    x = W y + b of a token y, cut into G groups x_g; α_gk = σ(u_g·x) softmax_k(V_g x) of group g and cluster k;
    v_k = Σ_n Σ_g α_gk (x_g − c_k), 1 long in the norm of `power`; all v_k, under a layer norm, times their gate
    σ(W₂ relu(W₁ v)); then a product whose kernel has columns 1 long. A layer norm stands behind V, too; there and of v
    the paper's code normalises over the batch.
    """

    def __init__(self, config: Config, width: int, size: int, build: base.Build, rngs: nnx.Rngs):
        c, wide = config, config.expansion * width
        self.config, self.dtype = config, build.dtype
        linear = lambda given, dim: Linear(given, dim, bias=True, dtype=build.dtype, rngs=rngs)
        self.expand, self.weigh = linear(width, wide), linear(wide, c.groups)
        self.assign, self.assign_norm = linear(wide, c.groups * c.clusters), LayerNorm(c.groups * c.clusters, bias=True)
        self.centres = param(jax.random.uniform(rngs.params(), (wide // c.groups, c.clusters)))
        self.norm = LayerNorm(size, bias=False)
        self.squeeze = linear(size, size // c.reduction) if c.reduction else None
        self.excite = linear(size // c.reduction, size) if c.reduction else None
        self.kernel = param(jax.nn.initializers.xavier_uniform()(rngs.params(), (size, c.dim)), matrix=True)

    def __call__(self, *streams: Stream, asked: Asked, given: tuple[str, ...] | None = None):
        """given: which of what it reads the streams are, where they are not all: to it they are tokens alike."""
        v = self.norm(self.residuals(streams))
        if self.squeeze is not None:
            v = v * jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(v))))
        kernel = self.kernel[...]
        return matmul(v, kernel * jax.lax.rsqrt(jnp.square(kernel).sum(0) + 1e-12), self.dtype)

    def residuals(self, streams):
        """`[B, wide / groups · clusters]`."""
        c = self.config
        y, counted = (jnp.concatenate(each, 1) for each in zip(*((s.x, s.counted) for s in streams)))
        x = self.expand(y)
        shares = jax.nn.softmax(self.assign_norm(self.assign(x)).reshape(*y.shape[:2], c.groups, c.clusters), axis=-1)
        alpha = shares * (jax.nn.sigmoid(self.weigh(x)) * counted[..., None])[..., None]
        x = jnp.where(counted[..., None], x, 0.0).reshape(*y.shape[:2], c.groups, -1)
        v = jnp.einsum("bngk,bngd->bdk", alpha, x) - self.centres[...] * alpha.sum((1, 2))[:, None]
        if c.power == 1:
            v = v / jnp.maximum(jnp.abs(v).sum(1, keepdims=True), 1e-12)
        else:
            v = v * jax.lax.rsqrt(jnp.square(v).sum(1, keepdims=True) + 1e-12)
        return v.reshape(len(y), -1)
