"""Some tokens of a stream, by their places: those of a part of what a modality shows."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from pretrain.models.parts import base
from pretrain.models.passes import Asked
from pretrain.models.stream import Stream


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    """places: of the tokens, in their modality. period: where so many tokens recur, such as the joints of a frame, the
    places are those of each turn; 0 where they do not.
    """

    places: tuple[int, ...] = ()
    period: int = 0
    dim: int = 768

    def make(self, build, rngs):
        if self.period < 0:
            build.fail("period", self.period, "must not be negative; 0 is none")
        length = self.period or min(build.spec(m).length for m in build.begins(self.reads[0]))
        if not self.places or not 0 <= min(self.places) <= max(self.places) < length:
            build.fail("places", self.places, f"list some of 0…{length - 1}")
        if build.width(self.reads[0]) != self.dim:
            build.fail("dim", self.dim, f"{self.reads[0]!r} gives tokens of width {build.width(self.reads[0])}")
        return Part(self)


class Part(nnx.Module):
    """Stream → Stream in which the other tokens' slots are empty. It has no parameters."""

    def __init__(self, config: Config):
        self.places, self.period = config.places, config.period

    def __call__(self, stream: Stream, asked: Asked) -> Stream:
        place = stream.position % self.period if self.period else stream.position
        return stream._replace(valid=stream.valid & jnp.isin(place, jnp.asarray(self.places)))
