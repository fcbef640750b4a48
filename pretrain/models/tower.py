"""A transformer tower: one or more modalities of one form → one embedding an example (CLIP, SigLIP, ALIGN, …)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from data_pipeline.spec import DENSE, Modality
from pretrain.models import blocks
from pretrain.models.blocks.base import Block, Given
from pretrain.models.layers import ACTIVATIONS, Attention, LayerNorm, Linear, Mlp, Seen
from pretrain.models.stack import LAYERS, make_stack, run_stack
from pretrain.models.tokens import TokenSet
from pretrain.ops.positions import WAVES, sincos_1d, sincos_2d
from pretrain.parameters import mark, param, undecayed
from pretrain.sharding import constrain, gather_rows

POOLS = ("cls", "mean", "last", "map", "ggem")
POSITIONS = ("learned", "sincos", "none")


@dataclasses.dataclass(frozen=True)
class Config:
    """A pre-LN transformer of its own for `modalities`, which share kind, shape and vocabulary.

    depth: 0 for no transformer: the rows of a `vectors` modality, precomputed elsewhere, are pooled and projected.
    activation: of the MLP, `gelu`, `gelu_tanh`, `quick_gelu` (CLIP's), or `swiglu`.
    causal: a token sees only its past, as in CLIP's text tower.
    pool: `cls` a learned class token, `mean`, `last` valid token (the end token of a text), `map` multi-head attention
      with one learned query and an MLP (SigLIP, arXiv 2106.04560, section 3.4), `ggem` (`GroupGeneralizedMean`).
    positions: `learned`, fixed `sincos`, or `none`.
    pad_id: -1: nobody sees the padding of a text; else it is seen, as tokens of this id, as in SigLIP.
    patch_bias, pre_norm, project, project_bias: a bias of the patch projection, a norm before the first block (CLIP's
      image tower), the projection to `embed_dim`, and its bias.
    frozen: everything but the projection keeps the values that it was loaded with.
    load: a workdir with a tower of this name whose values this one starts from; "" for fresh ones.
    """

    name: str
    modalities: tuple[str, ...]
    dim: int = 768
    heads: int = 12
    depth: int = 12
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    causal: bool = False
    bias: bool = True
    eps: float = 1e-6
    pool: str = "mean"
    positions: str = "learned"
    pad_id: int = -1
    patch_bias: bool = True
    pre_norm: bool = False
    project: bool = True
    project_bias: bool = False
    frozen: bool = False
    load: str = ""

    def __post_init__(self):
        def fail(key, remedy):
            raise ValueError(f"model.towers: {self.name!r}: {key}={getattr(self, key)!r}: {remedy}")

        if self.depth < 0:
            fail("depth", "must not be negative")
        if self.dim % self.heads or self.dim % 4:
            fail("dim", f"must be divisible by heads={self.heads} and by 4")
        for key, allowed in (
            ("activation", (*ACTIVATIONS, "swiglu")), ("pool", POOLS), ("positions", POSITIONS),
        ):  # fmt: skip
            if getattr(self, key) not in allowed:
                fail(key, f"must be one of {', '.join(allowed)}")
        if self.causal and self.pool == "cls":
            fail("pool", "a class token comes first and would see nothing of a causal tower: take `last`")
        if not self.depth and self.pool != "mean":
            fail("pool", "a tower of depth 0 has nothing but its rows: take `mean`")


class GroupGeneralizedMean(nnx.Module):
    """(mean_n max(x, ε)^p)^(1/p) over tokens, one learned p a group of channels (GGeM, arXiv 2212.04114, section 3).

    p starts at 3, as in GeM (arXiv 1711.02512); groups are the heads' channels.
    """

    def __init__(self, groups: int):
        self.p = undecayed(jnp.full(groups, 3.0))

    def __call__(self, x, valid):
        """x `[B, N, D]`, valid `[B, N]` → `[B, D]`; zeros where no token is valid."""
        p = jnp.maximum(self.p[...], 1e-2)[:, None]
        logs = jnp.log(jnp.maximum(x, 1e-6)).reshape(*x.shape[:2], len(p), -1)
        count = valid.sum(1)[:, None, None]
        # exp(logsumexp): powers of small numbers would underflow.
        total = jax.nn.logsumexp(p * logs, axis=1, where=valid[:, :, None, None])
        y = jnp.exp((jnp.where(count > 0, total, 0.0) - jnp.log(jnp.maximum(count, 1))) / p)
        return jnp.where(count > 0, y, 0.0).reshape(len(x), -1)


class AttentionPool(nnx.Module):
    """y = attention(probe, x); y + mlp(norm y): SigLIP's MAP head."""

    def __init__(self, c: blocks.Config, rngs):
        self.probe = param(0.02 * jax.random.normal(rngs.params(), (c.dim,)))
        self.attn = Attention(dataclasses.replace(c, attention="xla"), cross=True, rngs=rngs)
        self.norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps)
        self.mlp = Mlp(
            c.dim, c.mlp_ratio, gated=c.gated, activation=c.activation, bias=c.bias, dtype=c.dtype, rngs=rngs
        )  # fmt: skip

    def __call__(self, x, valid):
        probe = jnp.broadcast_to(self.probe[...], (len(x), 1, x.shape[-1]))
        y = self.attn.mix(self.attn.project_q(probe), *self.attn.project_kv(x), Seen(valid[:, None, None, :]))
        return (y + self.mlp(self.norm(y)))[:, 0]


class Tower(nnx.Module):
    """Embeds patches, tokens or vectors, runs the blocks, pools and projects.

    `spec` is the form that its modalities share. Parameters: `table [V, dim]` or `patches` (a Linear), `cls [dim]`,
    `positions [N, dim]` (the class token's first), `blocks`, `norm`, `head` and `project`.
    """

    def __init__(self, config: Config, spec: Modality, embed_dim: int, *, attention="xla", dtype, rngs: nnx.Rngs):
        c = self.config = config
        self.spec = spec
        normal = jax.nn.initializers.normal(0.02)
        dense, deep = spec.kind in DENSE, c.depth > 0
        if not deep and (spec.kind != "vectors" or spec.width != c.dim):
            raise ValueError(
                f"model.towers: {c.name!r}: depth=0 projects rows of width dim={c.dim}; {spec.name!r} is {spec.kind} "
                f"of shape {spec.shape}: give the tower a depth, or dim={spec.shape[-1]} to vectors"
            )
        if c.pad_id >= 0 and (dense or c.pad_id >= spec.vocab_size):
            raise ValueError(f"model.towers: {c.name!r}: pad_id={c.pad_id}: {spec.name!r} has no such token; set -1")
        self.table = None if dense else param(normal(rngs.params(), (spec.vocab_size, c.dim)))
        linear = lambda d_in, d_out, bias: Linear(d_in, d_out, bias=bias, dtype=dtype, rngs=rngs)
        self.patches = linear(spec.width, c.dim, c.patch_bias) if dense and deep else None
        self.cls = param(normal(rngs.params(), (c.dim,))) if c.pool == "cls" else None
        rows = spec.length + (c.pool == "cls")
        learned = deep and c.positions == "learned"
        resize = "grid" if spec.grid else ""
        self.positions = param(normal(rngs.params(), (rows, c.dim)), resize=resize) if learned else None
        self.pre_norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps) if c.pre_norm else None
        block = blocks.Config(
            c.dim, c.heads, mlp_ratio=c.mlp_ratio, gated=c.activation == "swiglu", bias=c.bias, eps=c.eps,
            activation=c.activation, attention=attention, dtype=dtype,
        )  # fmt: skip
        for before in filter(None, (self.table, self.patches, self.cls, self.positions, self.pre_norm)):
            mark(before, depth=c.depth + 1 if deep else 0)
        self.blocks = make_stack(lambda r: Block(block, blocks.ENCODER, rngs=r), c.depth, rngs) if deep else None
        self.norm = LayerNorm(c.dim, bias=c.bias, eps=c.eps) if deep else None
        heads = {"map": lambda: AttentionPool(block, rngs), "ggem": lambda: GroupGeneralizedMean(c.heads)}
        self.head = heads[c.pool]() if c.pool in heads else None
        if not c.project and c.dim != embed_dim:
            raise ValueError(
                f"model.towers: {c.name!r}: project=False leaves embeddings of dim={c.dim}, but embed_dim={embed_dim}; "
                "make them equal, or project"
            )
        if c.frozen:
            mark(self, fixed=True)
        self.project = linear(c.dim, embed_dim, c.project_bias) if c.project else None

    def encode(self, tokens: TokenSet, rows=None, *, layers: bool = False, remat: str = "none", unroll: int | bool = 1):
        """tokens `[B, N]` of one modality, rows `[B, L, width]` of pixels or vectors → (x, valid, hidden).

        x `[B, N, dim]` (the class token first), normalised; hidden `[depth, B, N, dim]`, not normalised, if `layers`.
        """
        c, valid = self.config, tokens.valid
        x = self._content(tokens, rows)
        if not c.depth:
            return x, valid, None
        if c.pad_id >= 0:
            valid = jnp.ones_like(valid)
        at = tokens.position + (c.pool == "cls")
        if c.positions != "none":
            x = x + self._positions()[at]
        if self.cls is not None:
            first = self.cls[...] + (self._positions()[0] if c.positions != "none" else 0.0)
            x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, c.dim)), x], axis=1)
            valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
            at = jnp.pad(at, ((0, 0), (1, 0)))
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        mask = valid[:, None, None, :]
        if c.causal:
            mask = mask & (at[:, None, None, :] <= at[:, None, :, None])
        x, outputs = run_stack(self.blocks, x, Given(Seen(mask)), remat=remat, layers=layers, unroll=unroll)
        return self.norm(x), valid, outputs.get(LAYERS)

    def pool(self, x, valid):
        """x `[B, N, dim]`, valid `[B, N]` → `[B, dim]`; zeros where nothing is valid (except under `cls`)."""
        if self.head is not None:
            return self.head(x, valid)
        if self.config.pool == "cls":
            return x[:, 0]
        if self.config.pool == "last":
            last = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
            return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0] * valid.any(1, keepdims=True)
        weights = valid / jnp.maximum(valid.sum(1, keepdims=True), 1)
        return jnp.einsum("bn,bnd->bd", weights, x)

    def _content(self, tokens, rows):
        if self.table is not None:
            ids = tokens.ids if self.config.pad_id < 0 else jnp.where(tokens.valid, tokens.ids, self.config.pad_id)
            return constrain(gather_rows(self.table[...])[ids])
        x = rows if self.patches is None else self.patches(rows)
        return jnp.take_along_axis(x, tokens.ids[..., None], axis=1)

    def _positions(self):
        if self.positions is not None:
            return self.positions[...]
        c, spec = self.config, self.spec
        rows = sincos_2d(*spec.grid, c.dim, WAVES) if spec.grid else sincos_1d(spec.length, c.dim, WAVES)
        return jnp.concatenate([jnp.zeros((1, c.dim)), rows]) if c.pool == "cls" else jnp.asarray(rows)
