"""Linear, LayerNorm, attention, MLP and the pre-LN blocks of 4M (arXiv 2312.06647, appendix A).

Parameters are fp32. `dtype` is the type of the matmul operands; every matmul accumulates in fp32, and norms, softmax
and the residual stream stay fp32.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.ops.attention import attend
from pretrain.ops.matmul import matmul
from pretrain.parameters import param, undecayed

xavier_uniform = jax.nn.initializers.xavier_uniform()

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # CLIP's
    "tanh": jnp.tanh,
}


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
        self.dtype = dtype

    def __call__(self, x):
        y = matmul(x, self.kernel[...], self.dtype)
        return y if self.bias is None else y + self.bias[...]


class LayerNorm(nnx.Module):
    """fp32 layer normalisation over the last axis (arXiv 1607.06450)."""

    def __init__(self, dim: int, *, bias: bool, eps: float = 1e-6):
        self.eps = eps
        self.scale = undecayed(jnp.ones(dim))
        self.bias = undecayed(jnp.zeros(dim)) if bias else None

    def __call__(self, x):
        mean = x.mean(-1, keepdims=True)
        centred = x - mean
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...]
        return y if self.bias is None else y + self.bias[...]


class Attention(nnx.Module):
    """Multi-head attention; with `context` it is cross-attention. Packed projections as 4M packs them: q|k|v.

    qk_norm: layer normalisation of queries and keys over a head's width (arXiv 2302.05442, section 2).
    slopes: one a head: attention falls by slope · distance between places of pictures (`attend`'s bias). It is ALiBi
    (arXiv 2108.12409) on grids, also between modalities, as in CROMA (arXiv 2311.00566); here the slopes are learned.
    mimetic: keys start out as the projection of queries, so that every token first looks at what is like it and stands
    where it stands, and cross-attention hands on what it finds there (arXiv 2305.09828 starts self-attention so); small
    data does not teach that soon.
    attention: what computes it (`attend`'s `how`).
    """

    def __init__(
        self, dim: int, heads: int, *, cross: bool, bias: bool, qk_norm: bool, slopes: tuple, mimetic: bool,
        attention: str = "xla", dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.heads, self.attention, self.dtype = heads, attention, dtype
        self.q_norm = LayerNorm(dim // heads, bias=bias) if qk_norm else None
        self.k_norm = LayerNorm(dim // heads, bias=bias) if qk_norm else None
        if cross:
            self.q = Linear(dim, dim, bias=bias, dtype=dtype, rngs=rngs, split=-1)
            self.kv = Linear(dim, 2 * dim, bias=bias, dtype=dtype, rngs=rngs, parts=2, split=-1)
        else:
            self.qkv = Linear(dim, 3 * dim, bias=bias, dtype=dtype, rngs=rngs, parts=3, split=-1)
        self.proj = Linear(dim, dim, bias=bias, dtype=dtype, rngs=rngs, split=-2)
        self.slopes = undecayed(jnp.asarray(slopes)) if slopes else None
        if mimetic and cross:
            self.kv.kernel[...] = self.kv.kernel[...].at[:, :dim].set(self.q.kernel[...])
            self.proj.kernel[...] = self.kv.kernel[:, dim:].T
        elif mimetic:
            self.qkv.kernel[...] = self.qkv.kernel[...].at[:, dim : 2 * dim].set(self.qkv.kernel[:, :dim])

    def __call__(self, x, context=None, *, mask=None, bias=None, distance=None):
        """x `[B, N, D]`, context `[B, M, D]`, mask and bias as in `attend`, distance `[B, N, M]`; gives `[B, N, D]`."""
        q, k, v = self.project(x) if context is None else (self.project_q(x), *self.project_kv(context))
        return self.mix(q, k, v, mask=mask, bias=bias, distance=distance)

    def project(self, x):
        """Queries, keys and values of self-attention, `[B, N, H, d]` each."""
        q, k, v = (self._split(a) for a in jnp.split(self.qkv(x), 3, axis=-1))
        return (q, k, v) if self.q_norm is None else (self.q_norm(q), self.k_norm(k), v)

    def project_q(self, x):
        """Queries of cross-attention, `[B, N, H, d]`."""
        q = self._split(self.q(x))
        return q if self.q_norm is None else self.q_norm(q)

    def project_kv(self, context):
        """Keys and values of cross-attention, `[B, M, H, d]` each."""
        k, v = (self._split(a) for a in jnp.split(self.kv(context), 2, axis=-1))
        return (k, v) if self.k_norm is None else (self.k_norm(k), v)

    def mix(self, q, k, v, *, mask=None, bias=None, distance=None):
        """What the queries find, projected, `[B, N, D]`. Without distance none of them lies in a picture."""
        if self.slopes is not None and distance is not None:
            near = -self.slopes[...][:, None, None] * distance[:, None]
            bias = near if bias is None else bias + near
        y = attend(*(a.astype(self.dtype) for a in (q, k, v)), mask=mask, bias=bias, how=self.attention)
        return self.proj(y.reshape(*y.shape[:2], -1))

    def _split(self, x):
        return x.reshape(*x.shape[:2], self.heads, -1)


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
        return self.fc2(jax.nn.silu(self.fc1(x)) * self.fc3(x))


class Adapter(nnx.Module):
    """x + up(gelu(down x)), through a few channels; it starts as x itself (arXiv 1902.00751, section 2.1)."""

    def __init__(self, dim: int, width: int, *, dtype, rngs: nnx.Rngs):
        self.down = Linear(dim, width, bias=True, dtype=dtype, rngs=rngs)
        self.up = Linear(width, dim, bias=True, dtype=dtype, rngs=rngs)
        self.up.kernel[...] = jnp.zeros((width, dim))

    def __call__(self, x):
        return x + self.up(jax.nn.gelu(self.down(x)))


class EncoderBlock(nnx.Module):
    """x += attention(norm1 x); x += mlp(norm2 x). adapter: the width of an `Adapter` behind each; 0 for none."""

    def __init__(
        self, dim, heads, *, mlp_ratio, gated, bias, qk_norm=False, slopes=(), mimetic=False, activation="gelu",
        eps=1e-6, attention="xla", adapter=0, dtype, rngs,
    ):  # fmt: skip
        args = dict(
            bias=bias, qk_norm=qk_norm, slopes=slopes, mimetic=mimetic, attention=attention, dtype=dtype, rngs=rngs
        )
        self.norm1 = LayerNorm(dim, bias=bias, eps=eps)
        self.attn = Attention(dim, heads, cross=False, **args)
        self.norm2 = LayerNorm(dim, bias=bias, eps=eps)
        self.mlp = Mlp(dim, mlp_ratio, gated=gated, bias=bias, activation=activation, dtype=dtype, rngs=rngs)
        self.adapter1, self.adapter2 = (
            Adapter(dim, adapter, dtype=dtype, rngs=rngs) if adapter else None for _ in range(2)
        )

    def __call__(self, x, mask=None, bias=None, distance=None, keep=None):
        """keep `[B, 2]`: what each of the two branches is multiplied by (`stack.drop_path`)."""
        y = self.attn(self.norm1(x), mask=mask, bias=bias, distance=distance)
        y = y if self.adapter1 is None else self.adapter1(y)
        x = x + (y if keep is None else keep[:, 0, None, None] * y)
        y = self.mlp(self.norm2(x))
        y = y if self.adapter2 is None else self.adapter2(y)
        return x + (y if keep is None else keep[:, 1, None, None] * y)


class DecoderBlock(nnx.Module):
    """x += self-attention(norm1 x); x += cross-attention(query_norm x, context_norm c); x += mlp(norm2 x)."""

    def __init__(
        self, dim, heads, *, mlp_ratio, gated, bias, qk_norm=False, slopes=(), mimetic=False, attention="xla", dtype,
        rngs,
    ):  # fmt: skip
        args = dict(
            bias=bias, qk_norm=qk_norm, slopes=slopes, mimetic=mimetic, attention=attention, dtype=dtype, rngs=rngs
        )
        self.norm1 = LayerNorm(dim, bias=bias)
        self.self_attn = Attention(dim, heads, cross=False, **args)
        self.query_norm = LayerNorm(dim, bias=bias)
        self.context_norm = LayerNorm(dim, bias=bias)
        self.cross_attn = Attention(dim, heads, cross=True, **args)
        self.norm2 = LayerNorm(dim, bias=bias)
        self.mlp = Mlp(dim, mlp_ratio, gated=gated, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x, context, self_mask, cross_mask, self_distance=None, cross_distance=None):
        x = x + self.self_attn(self.norm1(x), mask=self_mask, distance=self_distance)
        found = self.context_norm(context)
        x = x + self.cross_attn(self.query_norm(x), found, mask=cross_mask, distance=cross_distance)
        return x + self.mlp(self.norm2(x))

    def extend(self, x, keys, values, found, at, cross_mask):
        """The block for one further token of a sequence, x `[B, 1, D]` at index `at`.

        keys, values `[B, L, H, d]`: of the tokens before it; found: keys and values of the context. Gives x, keys and
        values with those of this token.
        """
        q, k, v = self.self_attn.project(self.norm1(x))
        keys, values = (jax.lax.dynamic_update_slice_in_dim(a, b, at, 1) for a, b in ((keys, k), (values, v)))
        past = (jnp.arange(keys.shape[1]) <= at)[None, None, None]
        x = x + self.self_attn.mix(q, keys, values, mask=past)
        x = x + self.cross_attn.mix(self.cross_attn.project_q(self.query_norm(x)), *found, mask=cross_mask)
        return x + self.mlp(self.norm2(x)), keys, values
