"""One vector of a stream."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models import blocks
from pretrain.models.layers import ACTIVATIONS, Attention, LayerNorm, Linear, Mlp, Seen
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream, mean
from pretrain.parameters import param, undecayed

HOW = ("mean", "cls", "last", "map", "ggem", "queries", "channels")


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """how: `mean` of the tokens that stand for something; `cls`, the first token; `last` valid token (the end token of
    a text); `map`, multi-head attention with one learned query and an MLP (SigLIP, arXiv 2106.04560, section 3.4);
    `ggem` (`GroupGeneralizedMean`); `queries`, a number of weighted means (`AttentionQueries`); `channels`, means of
    each channel under weights of its own (`ChannelAttention`).

    heads: of `map`, and the groups of `ggem`; mlp_ratio, activation, bias, eps: of `map`. pool_queries: how many.
    hidden: of `channels`, the width of what its weights are made of.
    """

    width: int = 768
    how: str = "mean"
    pool_queries: int = 0
    heads: int = 12
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    bias: bool = True
    eps: float = 1e-6
    hidden: int = 128

    gives = base.VECTOR

    @property
    def at_end(self) -> bool:
        """The last token of a text is its end."""
        return self.how == "last"

    @property
    def dim(self) -> int:
        """Of the vector."""
        return self.width * (self.pool_queries if self.how == "queries" else 1)

    def make(self, build, rngs):
        if self.how not in HOW:
            build.fail("how", self.how, f"must be one of {', '.join(HOW)}")
        if self.hidden < 1:
            build.fail("hidden", self.hidden, "must be at least 1")
        if (self.pool_queries > 0) != (self.how == "queries"):
            build.fail("pool_queries", self.pool_queries, "a positive number with how='queries', else 0")
        given = build.width(self.reads[0])
        if given != self.width:
            build.fail("width", self.width, f"{self.reads[0]!r}, which it reads, gives tokens of width {given}")
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Stream → `[B, dim]`; zeros where an example has nothing (except under `cls`)."""

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        c = self.config = config
        heads = {
            "map": lambda: AttentionPool(c, build.dtype, rngs),
            "ggem": lambda: GroupGeneralizedMean(c.heads),
            "queries": lambda: AttentionQueries(c.pool_queries, c.width, rngs),
            "channels": lambda: ChannelAttention(c.width, c.hidden, build.dtype, rngs),
        }
        self.head = heads[c.how]() if c.how in heads else None

    def __call__(self, stream: Stream, asked: Asked):
        if self.head is not None:
            return self.head(stream)
        x, how = stream.x, self.config.how
        if how == "cls":
            return x[:, 0]
        if how == "last":
            valid = stream.valid
            last = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
            return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0] * valid.any(1, keepdims=True)
        return mean(x, stream.counted)


class AttentionQueries(nnx.Module):
    """Means weighted by how a learned probe likes what a token says and where it stands: a plain mean forgets the
    layout of a picture, which tells two pictures of one thing apart."""

    def __init__(self, queries: int, dim: int, rngs: nnx.Rngs):
        self.pool_queries = param(0.2 * jax.random.normal(rngs.params(), (queries, dim)))

    def __call__(self, stream: Stream):
        placed = 0.0 if stream.placed is None else stream.placed
        counted = stream.counted[:, None]
        scores = jnp.einsum("pd,bnd->bpn", self.pool_queries[...], stream.x + placed)
        weights = jax.nn.softmax(jnp.where(counted, scores, jnp.finfo(scores.dtype).min)) * counted
        return jnp.einsum("bpn,bnd->bpd", weights, stream.x).reshape(len(stream.x), -1)


class ChannelAttention(nnx.Module):
    """Σ_n softmax_n(V tanh(W x_n + b)) ∘ x_n: every channel has weights of its own over the tokens (Merkx and Frank,
    arXiv 1903.11393; Chen, Ling and Zhu, arXiv 1806.09828). They add a bias to V, which the softmax takes away."""

    def __init__(self, dim: int, hidden: int, dtype, rngs: nnx.Rngs):
        self.inner = Linear(dim, hidden, bias=True, dtype=dtype, rngs=rngs)
        self.outer = Linear(hidden, dim, bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, stream: Stream):
        counted = stream.counted[..., None]
        scores = self.outer(jnp.tanh(self.inner(stream.x))).astype(jnp.float32)
        weights = jax.nn.softmax(jnp.where(counted, scores, jnp.finfo(scores.dtype).min), axis=1)
        return (jnp.where(counted, weights, 0.0) * stream.x).sum(1)


class GroupGeneralizedMean(nnx.Module):
    """(mean_n max(x, ε)^p)^(1/p) over tokens, one learned p a group of channels (GGeM, arXiv 2212.04114, section 3).

    p starts at 3, as in GeM (arXiv 1711.02512); groups are the heads' channels.
    """

    def __init__(self, groups: int):
        self.p = undecayed(jnp.full(groups, 3.0))

    def __call__(self, stream: Stream):
        x, valid = stream.x, stream.counted
        p = jnp.maximum(self.p[...], 1e-2)[:, None]
        logs = jnp.log(jnp.maximum(x, 1e-6)).reshape(*x.shape[:2], len(p), -1)
        count = valid.sum(1)[:, None, None]
        # exp(logsumexp): powers of small numbers would underflow.
        total = jax.nn.logsumexp(p * logs, axis=1, where=valid[:, :, None, None])
        y = jnp.exp((jnp.where(count > 0, total, 0.0) - jnp.log(jnp.maximum(count, 1))) / p)
        return jnp.where(count > 0, y, 0.0).reshape(len(x), -1)


class AttentionPool(nnx.Module):
    """y = attention(probe, x); y + mlp(norm y): SigLIP's MAP head."""

    def __init__(self, c: Config, dtype, rngs):
        gated = c.activation == "swiglu"
        attention = blocks.Config(c.width, c.heads, bias=c.bias, eps=c.eps, attention="xla", dtype=dtype)
        self.probe = param(0.02 * jax.random.normal(rngs.params(), (c.width,)))
        self.attn = Attention(attention, cross=True, rngs=rngs)
        self.norm = LayerNorm(c.width, bias=c.bias, eps=c.eps)
        activation = c.activation if c.activation in ACTIVATIONS else "gelu"
        self.mlp = Mlp(
            c.width, c.mlp_ratio, gated=gated, activation=activation, bias=c.bias, dtype=dtype, rngs=rngs
        )  # fmt: skip

    def __call__(self, stream: Stream):
        x, seen = stream.x, Seen(stream.valid[:, None, None, :])
        probe = jnp.broadcast_to(self.probe[...], (len(x), 1, x.shape[-1]))
        y = self.attn.mix(self.attn.project_q(probe), *self.attn.project_kv(x), seen)
        return (y + self.mlp(self.norm(y)))[:, 0]
