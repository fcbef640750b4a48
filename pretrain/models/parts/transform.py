"""BERT's transform of tokens before they are predicted."""

import dataclasses

from flax import nnx

from pretrain.models.layers import ACTIVATIONS, LayerNorm, Linear
from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """reads: the stream. dim: of what it writes."""

    dim: int = 768
    eps: float = 1e-12

    def make(self, build, rngs):
        return Part(Transform(build.width(self.reads[0]), self.dim, self.eps, build.dtype, rngs))


class Part(nnx.Module):
    """Stream → Stream of transformed tokens."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, stream: Stream, asked: Asked) -> Stream:
        return stream._replace(x=self.transform(stream.x), layers=None)


class Transform(nnx.Module):
    """x `[…, D]` → norm(gelu(W x + b)), `[…, dim]` (BERT, arXiv 1810.04805: the heads of its release)."""

    def __init__(self, given: int, dim: int, eps: float, dtype, rngs: nnx.Rngs):
        self.linear = Linear(given, dim, bias=True, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(dim, bias=True, eps=eps)

    def __call__(self, x):
        return self.norm(ACTIVATIONS["gelu"](self.linear(x)))
