"""What a block is: residual branches one after another, each a file of this folder."""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.layers import Adapter, Seen


@dataclasses.dataclass(frozen=True)
class Config:
    """What the branches of a block share; each file says what of it it reads.

    dtype: of the matmul operands, as `jnp.dtype`; attention: what computes it (`ops.attention`).
    adapter: width of the `Adapter` behind every branch, 0 for none.
    """

    dim: int
    heads: int
    mlp_ratio: float = 4.0
    gated: bool = False
    activation: str = "gelu"
    bias: bool = True
    eps: float = 1e-6
    qk_norm: bool = False
    slopes: tuple[float, ...] = ()
    mimetic: bool = False
    adapter: int = 0
    attention: str = "xla"
    dtype: jnp.dtype = jnp.dtype("bfloat16")


class Given(NamedTuple):
    """What every branch of every block may read beside x `[B, N, D]`.

    seen: by self-attention, one a stream in blocks over several; context `[B, M, D]` and context_seen: by
    cross-attention; condition: what the examples have in common with no token, `[B, C]`. modality `[B, N]`:
    `Stream.kinds`.
    keep `[B, branches]`, or of each token `[B, N, branches]`: what each branch is multiplied by (`stack.drop_path`).
    cache: {branch: what it remembers}, at: the index of the one token that x then holds.
    """

    seen: Seen | tuple[Seen, ...] = Seen()
    context: jax.Array | None = None
    context_seen: Seen = Seen()
    condition: jax.Array | None = None
    modality: jax.Array | None = None
    keep: jax.Array | None = None
    cache: dict | None = None
    at: jax.Array | None = None


class Branch(Protocol):
    """An nnx module of a file of this folder: x `[B, N, D]` → what is added to it."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs): ...

    def __call__(self, x, given: Given, memory=None):
        """(y `[B, N, D]`, {name: `[B, …]`} auxiliary outputs, the memory with this token)."""

    def open(self, given: Given, length: int):
        """Memory of a sequence of up to `length` tokens that is written token by token; None of what needs none."""


class Block(nnx.Module):
    """x += branch(x), branch by branch. branches: {name: class}."""

    def __init__(self, config: Config, branches: dict, *, rngs: nnx.Rngs):
        self.names = tuple(branches)
        for name, branch in branches.items():
            setattr(self, name, branch(config, rngs=rngs))
        width = config.adapter
        make = lambda: Adapter(config.dim, width, dtype=config.dtype, rngs=rngs)
        self.adapters = nnx.Dict({name: make() for name in branches}) if width else None

    def __call__(self, x, given: Given):
        """(x `[B, N, D]`, auxiliary outputs); of a cached sequence they hold the `cache` too."""
        aux, cache = {}, {}
        for i, name in enumerate(self.names):
            memory = None if given.cache is None else given.cache[name]
            with jax.named_scope(name):
                y, more, cache[name] = getattr(self, name)(x, given, memory)
                if self.adapters is not None:
                    y = self.adapters[name](y)
            x = x + (y if given.keep is None else _along(given.keep[..., i], y) * y).astype(x.dtype)
            aux |= more
        return x, aux if given.cache is None else aux | {"cache": cache}

    def open(self, given: Given, length: int) -> dict:
        return {name: getattr(self, name).open(given, length) for name in self.names}


def _along(keep, y):
    """keep `[B]` or `[B, N]` beside y `[B, N, D]`."""
    return keep.reshape(*keep.shape, *[1] * (y.ndim - keep.ndim))
