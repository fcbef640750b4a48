"""Linear, LayerNorm, attention, MLP and bottleneck adapters: what blocks and heads are made of.

Parameters are fp32. `dtype` is the type of the matmul operands; every matmul accumulates in fp32, and norms and softmax
are computed in fp32. What a layer gives has the type of what it gets: inside of stacks `dtype`, elsewhere fp32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.ops.attention import attend
from pretrain.ops.layer_norm import layer_norm
from pretrain.ops.matmul import matmul
from pretrain.parameters import mark, param, undecayed

xavier_uniform = jax.nn.initializers.xavier_uniform()


def _wide(function):
    """An activation in fp32 whatever the type of its inputs, rounded once; the backward pass keeps them alone."""

    def rounded(*inputs):
        return function(*(x.astype(jnp.float32) for x in inputs)).astype(inputs[0].dtype)

    return jax.checkpoint(rounded, prevent_cse=False)


ACTIVATIONS = {
    "gelu": _wide(lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": _wide(jax.nn.gelu),
    "quick_gelu": _wide(lambda x: x * jax.nn.sigmoid(1.702 * x)),  # CLIP's
    "tanh": _wide(jnp.tanh),
    "relu": jax.nn.relu,  # OPT's
    "silu": _wide(jax.nn.silu),
}
gate = _wide(lambda x, y: jax.nn.silu(x) * y)  # of gated MLPs (arXiv 2002.05202, SwiGLU)


class Linear(nnx.Module):
    """y = x·kernel + bias; kernel `[d_in, d_out]`. Each of `parts` packed matrices is initialised alone.

    split: the dimension that `tensor` may split: -1 the outputs, of the first of a pair of products, -2 the inputs, of
    the second; 0 for neither.
    """

    def __init__(self, d_in: int, d_out: int, *, bias: bool, dtype, rngs: nnx.Rngs, parts: int = 1, split: int = 0):
        keys = jax.random.split(rngs.params(), parts)
        kernels = [xavier_uniform(k, (d_in, d_out // parts), jnp.float32) for k in keys]
        self.kernel = param(jnp.concatenate(kernels, axis=1), matrix=True, split=split)
        self.bias = undecayed(jnp.zeros(d_out), split=-1 if split == -1 else 0) if bias else None
        self.dtype, self.split = dtype, split

    def __call__(self, x, *, inner=(), outer=()):
        """x `[…, d_in]` → `[…, d_out]`; inner, outer: axes in their places (`ops.matmul`)."""
        y = matmul(x, self.kernel[...], self.dtype, self.split, inner, outer)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype).reshape(outer or -1)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis (`ops.layer_norm`)."""

    def __init__(self, dim: int, *, bias: bool, eps: float = 1e-6):
        self.eps = eps
        self.scale = undecayed(jnp.ones(dim))
        self.bias = undecayed(jnp.zeros(dim)) if bias else None

    def __call__(self, x):
        return layer_norm(x, self.scale[...], None if self.bias is None else self.bias[...], self.eps)


class Seen(NamedTuple):
    """What queries see of keys: mask bool and bias additive, broadcastable to `[B, H, N, M]`; distance `[B, N, M]`."""

    mask: jax.Array | None = None
    bias: jax.Array | None = None
    distance: jax.Array | None = None


EVERYTHING = Seen()


class Attention(nnx.Module):
    """Multi-head attention; with `cross` keys and values are of a context. Packed projections as 4M packs them: q|k|v.

    Of a `blocks.base.Config` it reads
    qk_norm: layer normalisation of queries and keys over a head's width (arXiv 2302.05442, section 2).
    slopes: one a head: attention falls by slope · distance between places of pictures (`attend`'s bias). It is ALiBi
    (arXiv 2108.12409) on grids, also between modalities, as in CROMA (arXiv 2311.00566); here the slopes are learned.
    mimetic: keys start out as the projection of queries, so that every token first looks at what is like it and stands
    where it stands, and cross-attention hands on what it finds there (arXiv 2305.09828 starts self-attention so); small
    data does not teach that soon.
    attention: what computes it (`attend`'s `how`).
    """

    def __init__(self, config, *, cross: bool, rngs: nnx.Rngs):
        c, width = config, config.dim // config.heads
        self.heads, self.attention, self.dtype = c.heads, c.attention, c.dtype
        self.q_norm = LayerNorm(width, bias=c.bias) if c.qk_norm else None
        self.k_norm = LayerNorm(width, bias=c.bias) if c.qk_norm else None
        linear = dict(bias=c.bias, dtype=c.dtype, rngs=rngs)
        if cross:
            self.q = Linear(c.dim, c.dim, split=-1, **linear)
            self.kv = Linear(c.dim, 2 * c.dim, parts=2, split=-1, **linear)
        else:
            self.qkv = Linear(c.dim, 3 * c.dim, parts=3, split=-1, **linear)
        self.proj = Linear(c.dim, c.dim, split=-2, **linear)
        self.slopes = undecayed(jnp.asarray(c.slopes)) if c.slopes else None
        if c.mimetic and cross:
            self.kv.kernel[...] = self.kv.kernel[...].at[:, : c.dim].set(self.q.kernel[...])
            self.proj.kernel[...] = self.kv.kernel[:, c.dim :].T
        elif c.mimetic:
            self.qkv.kernel[...] = self.qkv.kernel[...].at[:, c.dim : 2 * c.dim].set(self.qkv.kernel[:, : c.dim])

    def __call__(self, x, seen: Seen = EVERYTHING):
        """Self-attention `[B, N, D]` → `[B, N, D]`."""
        return self.mix(*self.project(x), seen)

    def project(self, x):
        """Queries, keys and values of self-attention, `[B, N, H, d]` each."""
        q, k, v = self._heads(self.qkv, x, 3)
        return (q, k, v) if self.q_norm is None else (self.q_norm(q), self.k_norm(k), v)

    def project_q(self, x):
        """Queries of cross-attention, `[B, N, H, d]`."""
        (q,) = self._heads(self.q, x, 1)
        return q if self.q_norm is None else self.q_norm(q)

    def project_kv(self, context):
        """Keys and values of cross-attention, `[B, M, H, d]` each."""
        k, v = self._heads(self.kv, context, 2)
        return (k, v) if self.k_norm is None else (self.k_norm(k), v)

    def mix(self, q, k, v, seen: Seen):
        """What the queries find, projected, `[B, N, D]`. Without distance none of them lies in a picture."""
        bias, given = seen.bias, q.dtype
        if self.slopes is not None and seen.distance is not None:
            near = -self.slopes[...][:, None, None] * seen.distance[:, None]
            bias = near if bias is None else bias + near
        y = attend(*(a.astype(self.dtype) for a in (q, k, v)), mask=seen.mask, bias=bias, how=self.attention)
        return self.proj(y.astype(given), inner=y.shape[2:])

    def _heads(self, linear: Linear, x, packed: int):
        """What packed matrices make of x, `[B, N, H, d]` each."""
        width = linear.kernel.shape[-1] // (packed * self.heads)
        y = linear(x, outer=(packed, self.heads, width))
        return tuple(y[:, :, i] for i in range(packed))


class Mlp(nnx.Module):
    """fc2(act(fc1 x)), or gated: fc2(silu(fc1 x) · fc3 x) with two thirds of the width (arXiv 2002.05202)."""

    def __init__(self, dim: int, ratio: float, *, gated: bool, bias: bool, activation="gelu", dtype, rngs: nnx.Rngs):
        hidden = int(ratio * dim * 2 / 3) if gated else round(ratio * dim)
        self.activation = activation
        self.fc1 = Linear(dim, hidden, bias=bias, dtype=dtype, rngs=rngs, split=-1)
        self.fc3 = Linear(dim, hidden, bias=bias, dtype=dtype, rngs=rngs, split=-1) if gated else None
        self.fc2 = Linear(hidden, dim, bias=bias, dtype=dtype, rngs=rngs, split=-2)

    def __call__(self, x):
        if self.fc3 is None:
            return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))
        return self.fc2(gate(self.fc1(x), self.fc3(x)))


class Adapter(nnx.Module):
    """x + up(gelu(down x)), through a few channels; it starts as x itself (arXiv 1902.00751, section 2.1)."""

    def __init__(self, dim: int, width: int, *, dtype, rngs: nnx.Rngs):
        self.down = Linear(dim, width, bias=True, dtype=dtype, rngs=rngs)
        self.up = Linear(width, dim, bias=True, dtype=dtype, rngs=rngs)
        self.up.kernel[...] = jnp.zeros((width, dim))
        mark(self, anew=True)

    def __call__(self, x):
        return x + self.up(ACTIVATIONS["gelu_tanh"](self.down(x)))
