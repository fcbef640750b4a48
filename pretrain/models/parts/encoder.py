"""A transformer over the tokens of a stream."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models import blocks
from pretrain.models.blocks.base import Block, Given
from pretrain.models.layers import LayerNorm, Seen
from pretrain.models.parts import base, prompts
from pretrain.models.passes import Asked
from pretrain.models.stack import LAYERS, PerLayer, drop_path, make_stack, run_stack
from pretrain.models.stream import Stream, append, overwrite, prepend
from pretrain.ops.fused_attention import check as check_attention
from pretrain.ops.positions import distances
from pretrain.parameters import mark, param


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: what embeds its tokens; behind it, if its blocks take some in, `prompts`.

    mlp_ratio, gated, activation, bias, eps, qk_norm, mimetic: of the blocks (`blocks.Config`).
    causal: a token sees only those before it and itself, as in CLIP's text tower.
    registers: learned tokens before the others (arXiv 2309.16588).
    adapter: width of the bottlenecks behind attention and MLP of every block (`layers.Adapter`), 0 for none: to
    fine-tune by.
    slopes: one a head, in 1 / side of a picture: attention prefers what lies near (`layers.Attention`); () for none.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    gated: bool = False
    activation: str = "gelu"
    bias: bool = True
    eps: float = 1e-6
    qk_norm: bool = False
    causal: bool = False
    registers: int = 0
    adapter: int = 0
    slopes: tuple[float, ...] = ()
    mimetic: bool = False

    edited = True

    def __post_init__(self):
        if self.dim % self.heads:
            raise ValueError(f"model.dim={self.dim}: must be divisible by model.heads={self.heads}")
        if self.slopes and len(self.slopes) != self.heads:
            raise ValueError(f"model.slopes={self.slopes}: needs one for each of model.heads={self.heads}, or none")
        for key in ("depth", "registers", "adapter"):
            if getattr(self, key) < 0:
                raise ValueError(f"model.{key}={getattr(self, key)}: must not be negative")

    def block(self, build: base.Build) -> blocks.Config:
        return blocks.Config(
            self.dim, self.heads, mlp_ratio=self.mlp_ratio, gated=self.gated, bias=self.bias, qk_norm=self.qk_norm,
            eps=self.eps, activation=self.activation, slopes=self.slopes, mimetic=self.mimetic, adapter=self.adapter,
            attention=build.numerics.attention, dtype=build.dtype,
        )  # fmt: skip

    def branches(self, build: base.Build) -> dict:
        """{name: class} of the branches of its blocks (`blocks.base.Branch`)."""
        return blocks.ENCODER

    def make(self, build, rngs):
        given = build.width(self.reads[0])
        if given != self.dim:
            build.fail("dim", self.dim, f"{self.reads[0]!r}, which it reads, gives tokens of width {given}")
        width, varied = self.dim // self.heads, self.causal or bool(self.slopes)
        how, dtype = build.numerics.attention, build.numerics.dtype
        check_attention(how, dtype=dtype, width=width, biased=bool(self.slopes), varied=varied)
        if (deep := prompts.read(self, build)) and deep.layers > self.depth:
            build.fail("depth", self.depth, f"{self.reads[-1]!r} has layers={deep.layers}: take no more than blocks")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Stream → Stream of as many tokens and the registers before them; x is normalised, `layers` are not."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.run, block, branches = build.run, c.block(build), c.branches(build)
        self.n_branches = len(branches)
        self.prompts = prompts.read(c, build)
        self.entered = self.prompts is not None and c.reads[-1] in build.parts[c.reads[0]].reads
        self.registers = param(0.02 * jax.random.normal(rngs.params(), (c.registers, c.dim))) if c.registers else None
        if self.registers is not None:
            mark(self.registers, depth=c.depth + 1)
        self.blocks = make_stack(lambda r: Block(block, branches, rngs=r), c.depth, rngs)
        self.norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps)

    def __call__(self, stream: Stream, *given, asked: Asked, bias=None, drop: float = 0.0) -> Stream:
        """given: of `prompts`, `[layers, n, D]`, if it reads some; then, if it is asked of a stream that it has given,
        early, a number `[B]` in 0…1: the stream of its layer 1 + ⌊early · (depth − 1)⌋, any but the last, if there is
        more than one.
        bias: what adds to attention. drop: rate of stochastic depth (`stack.drop_path`).
        """
        deep, early = given[: (n := int(self.prompts is not None))], given[n:]
        if early:
            return stream._replace(x=self.norm(layer_of(stream.layers, early[0])), layers=None)
        c = self.config
        if self.registers is not None:
            stream = prepend(self.registers[...], stream)
        each, slot = PerLayer(drop_path(asked.keys, drop, c.depth, self.n_branches) if drop else None), 0
        if deep:
            stream, each, slot = self._prompted(stream, deep[0], each)
        n = stream.x.shape[1]
        mask = stream.valid[:, None, None, :]
        if c.causal:
            mask = mask & jnp.tril(jnp.ones((n, n), bool))
        distance = distances(stream.where, stream.where) if c.slopes and stream.where is not None else None
        given = Given(Seen(mask, bias, distance), modality=stream.kinds)
        if asked.edit is not None:
            given, each = asked.edit(stream, given, each)
        x, outputs = run_stack(self.blocks, stream.x, given, each, layers=asked.layers, slot=slot, **dict(self.run))
        outputs = {name: jnp.moveaxis(value, 0, 1) for name, value in outputs.items()}
        layers = outputs.pop(LAYERS, None)
        return stream._replace(x=self.norm(x), layers=layers, aux=outputs or stream.aux)

    def _prompted(self, stream: Stream, rows, each: PerLayer):
        """(the stream with the first block's prompts, `each` with those of the others, their first slot)."""
        p, depth = self.prompts, self.config.depth
        slot = p.at + self.config.registers if p.at >= 0 else -p.length
        if not self.entered:
            stream = overwrite(rows[0], stream, slot) if p.at >= 0 else append(rows[0], stream)
        if p.layers > 1:
            on = (jnp.arange(depth) > 0) & (jnp.arange(depth) < p.layers)
            padded = jnp.pad(rows, ((0, depth - p.layers), (0, 0), (0, 0)))
            each = each._replace(prompts=padded, prompted=on)
        return stream, each, slot


def layer_of(layers, early):
    """Layer 1 + ⌊early · (depth − 1)⌋ of `[B, depth, N, D]`, early `[B]`: not the last, if there is more than one."""
    depth = layers.shape[1]
    at = jnp.minimum((early * (depth - 1)).astype(jnp.int32), max(depth - 2, 0))
    return jnp.take_along_axis(layers, at[:, None, None, None], axis=1)[:, 0]
