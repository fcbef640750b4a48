"""Gated recurrent units over the tokens of a stream, in one direction or in both (Cho et al., arXiv 1406.1078)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.ops.matmul import matmul
from pretrain.sharding import gather_matrix


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """dim: of what it writes, half of it each direction's where there are two. both: whether there are."""

    dim: int = 2048
    both: bool = True

    def make(self, build, rngs):
        if self.dim < 1 or self.dim % (1 + self.both):
            build.fail("dim", self.dim, "must be positive" + ", and even where both=True" * self.both)
        return Part(self, build, rngs)


class Part(nnx.Module):
    """Stream `[B, N, D]` → Stream `[B, N, dim]`: the state behind each valid token, and zeros elsewhere.

    Slots that hold nothing leave the state as it was, so that the way back begins at the last token of each example.
    """

    def __init__(self, config: Config, build: base.Build, rngs: nnx.Rngs):
        hidden, given = config.dim // (1 + config.both), build.width(config.reads[0])
        self.ahead = Way(given, hidden, build.dtype, rngs)
        self.back = Way(given, hidden, build.dtype, rngs) if config.both else None

    def __call__(self, stream: Stream, asked: Asked) -> Stream:
        x = self.ahead(stream.x, stream.valid, reverse=False)
        if self.back is not None:
            x = jnp.concatenate([x, self.back(stream.x, stream.valid, reverse=True)], -1)
        x = jnp.where(stream.valid[..., None], x, 0.0)
        return stream._replace(x=x, placed=None, layers=None)


class Way(nnx.Module):
    """r = σ(W_r x + U_r h), z = σ(W_z x + U_z h), n = tanh(W_n x + r ∘ (U_n h)), h ← (1 − z) ∘ n + z ∘ h, each product
    with a bias of its own, as cuDNN and PyTorch compute it; kernels hold r, z, n side by side."""

    def __init__(self, given: int, hidden: int, dtype, rngs: nnx.Rngs):
        self.inputs = Linear(given, 3 * hidden, bias=True, dtype=dtype, rngs=rngs, parts=3)
        self.states = Linear(hidden, 3 * hidden, bias=True, dtype=dtype, rngs=rngs, parts=3)

    def __call__(self, x, valid, *, reverse: bool):
        """x `[B, N, D]`, valid `[B, N]` → h `[B, N, hidden]`."""
        given = self.inputs(x).astype(jnp.float32).swapaxes(0, 1)
        kernel, bias = gather_matrix(self.states.kernel[...], 0), self.states.bias[...]

        def step(h, now):
            given, valid = now
            r_x, z_x, n_x = jnp.split(given, 3, -1)
            r_h, z_h, n_h = jnp.split(matmul(h, kernel, self.states.dtype) + bias, 3, -1)
            z = jax.nn.sigmoid(z_x + z_h)
            n = jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h)
            h = jnp.where(valid[:, None], (1 - z) * n + z * h, h)
            return h, h

        start = jnp.zeros((len(x), len(kernel)), jnp.float32)
        return jax.lax.scan(step, start, (given, valid.T), reverse=reverse)[1].swapaxes(0, 1)
