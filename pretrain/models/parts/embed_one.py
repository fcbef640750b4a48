"""The embedding of modalities of one form, each alone: patches, tokens or vectors (CLIP, SigLIP, ALIGN, …)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.models.layers import LayerNorm, Linear
from pretrain.models.parts import base, prompts
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream, append, overwrite, prepend
from pretrain.models.tokens import Shown
from pretrain.ops.positions import WAVES, sincos_1d, sincos_2d
from pretrain.parameters import param
from pretrain.sharding import constrain, gather_rows

POSITIONS = ("learned", "sincos", "none")


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: modalities that share kind, shape and vocabulary; behind them, if it takes some in, `prompts`, whose first
    block's vectors are embedded as tokens are: instead of words, at their positions, or behind all, with none.

    cls: a learned class token comes first. positions: `learned`, fixed `sincos`, or `none`.
    pad_id: -1: nobody sees the padding of a text; else it is seen, as tokens of this id, as in SigLIP.
    patch_bias, norm: a bias of the patch projection, and a norm of what is given (CLIP's image tower).
    raw: rows of `vectors` are handed on as they are, precomputed elsewhere.
    masks: a learned token stands for a patch that is masked, one whose id is past the last row (BEiT, arXiv 2106.08254,
      section 2.3).
    """

    dim: int = 768
    cls: bool = False
    positions: str = "learned"
    pad_id: int = -1
    patch_bias: bool = True
    norm: bool = False
    norm_bias: bool = True
    eps: float = 1e-6
    raw: bool = False
    masks: bool = dataclasses.field(default=False, kw_only=True)

    edited = True

    @property
    def pads(self) -> bool:
        """As in SigLIP."""
        return self.pad_id >= 0

    def make(self, build, rngs):
        if self.positions not in POSITIONS:
            build.fail("positions", self.positions, f"must be one of {', '.join(POSITIONS)}")
        given = prompts.read(self, build)
        specs = [build.spec(n) for n in self.reads[: -1 if given else None]]
        if not specs:
            build.fail("reads", self.reads, "name at least one modality")
        if len({_form(m) for m in specs}) > 1:
            build.fail("reads", self.reads, "they differ in kind, shape or vocabulary; give each form a part")
        spec = specs[0]
        if self.raw and (spec.form != "vectors" or spec.width != self.dim):
            build.fail("dim", self.dim, f"raw rows have the width of {spec.name!r}, which is {spec.kind} {spec.shape}")
        if self.pad_id >= 0 and (spec.dense or self.pad_id >= spec.vocab_size):
            build.fail("pad_id", self.pad_id, f"{spec.name!r} has no such token; set -1")
        if self.masks and (self.raw or not spec.dense):
            build.fail("masks", True, f"only rows that are projected are masked, pixels or vectors: not {spec.name!r}")
        if given and self.raw:
            build.fail("raw", self.raw, "rows that are handed on as they are take no prompts")
        if given and given.at >= 0 and not self.cls <= given.at <= spec.length + self.cls - given.length:
            places = f"places {int(self.cls)} to {spec.length + self.cls - 1}"
            build.fail("reads", self.reads, f"{given.length} prompts at={given.at} need {places} of {spec.name!r}")
        return Part(self, spec, given, build, rngs)


class Part(nnx.Module):
    """Shown of one modality → Stream. Parameters: `table [V, dim]` or `patches` (a Linear), `cls [dim]`, `positions
    [N, dim]` (the class token's first), `mask_token [dim]` and `norm`."""

    def __init__(self, config: Config, spec: Modality, given, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        self.prompts = given
        self.spec, self.names = spec, tuple(m.name for m in build.modalities)
        normal, dense = jax.nn.initializers.normal(0.02), spec.dense
        self.table = None if dense else param(normal(rngs.params(), (spec.vocab_size, c.dim)), vocab=spec.vocab)
        linear = dict(bias=c.patch_bias, dtype=build.dtype, rngs=rngs)
        self.patches = Linear(spec.width, c.dim, **linear) if dense and not c.raw else None
        self.cls = param(normal(rngs.params(), (c.dim,))) if c.cls else None
        learned = c.positions == "learned" and not c.raw
        rows, resize = spec.length + c.cls, "grid" if spec.grid else ""
        self.positions = param(normal(rngs.params(), (rows, c.dim)), resize=resize) if learned else None
        self.norm = LayerNorm(c.dim, bias=c.norm_bias, eps=c.eps) if c.norm else None
        self.mask_token = param(normal(rngs.params(), (c.dim,))) if c.masks else None

    def __call__(self, shown: Shown, *given, asked: Asked) -> Stream:
        """shown: tokens `[B, N]` of one modality. given: of `prompts`, `[layers, n, dim]`."""
        c, tokens = self.config, shown.tokens
        content = self._content(shown) if asked.edit is None else asked.edit(self._content(shown))
        stream = Stream(content, tokens.valid, tokens.modality, tokens.position)
        if c.raw:
            return stream
        if c.pad_id >= 0:
            stream = stream._replace(valid=jnp.ones_like(tokens.valid))
        if given and self.prompts.at >= 0:
            stream = overwrite(given[0][0], stream, self.prompts.at - c.cls)
        table = self._positions() if c.positions != "none" else None
        if table is not None:
            stream = stream._replace(x=stream.x + table[stream.position + c.cls])
        if self.cls is not None:
            stream = prepend((self.cls[...] + (0.0 if table is None else table[0]))[None], stream)
        if given and self.prompts.at < 0:
            stream = append(given[0][0], stream)
        return stream if self.norm is None else stream._replace(x=self.norm(stream.x))

    def _content(self, shown: Shown):
        tokens = shown.tokens
        if self.table is not None:
            ids = tokens.ids if self.config.pad_id < 0 else jnp.where(tokens.valid, tokens.ids, self.config.pad_id)
            return constrain(gather_rows(self.table[...])[ids])
        (rows,) = shown.dense.values()
        x = rows if self.patches is None else self.patches(rows)
        if self.mask_token is None:
            return jnp.take_along_axis(x, tokens.ids[..., None], axis=1)
        masked, last = tokens.ids >= rows.shape[1], rows.shape[1] - 1
        x = jnp.take_along_axis(x, jnp.minimum(tokens.ids, last)[..., None], axis=1)
        return jnp.where(masked[..., None], self.mask_token[...], x)

    def _positions(self):
        if self.positions is not None:
            return self.positions[...]
        c, spec = self.config, self.spec
        rows = sincos_2d(*spec.grid, c.dim, WAVES) if spec.grid else sincos_1d(spec.length, c.dim, WAVES)
        return jnp.concatenate([jnp.zeros((1, c.dim)), rows]) if c.cls else jnp.asarray(rows)


def _form(m: Modality):
    return m.kind, m.shape, m.patch, m.mean, m.std, m.vocab, m.vocab_size
