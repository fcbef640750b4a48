"""Networks of named parts over streams: what a part reads and writes is all that another knows of it."""

import dataclasses
from typing import Annotated, Any

import jax
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.frozen import Files
from pretrain.models.parts.base import STREAM, Build, Numerics
from pretrain.models.passes import Asked, Call
from pretrain.models.stack import check_numerics
from pretrain.models.states import States
from pretrain.ops.keys import named
from pretrain.parameters import mark


@dataclasses.dataclass(frozen=True)
class Config:
    """parts: {name: dict(part=FILE, reads=[…], …)} of `pretrain/models/parts`, written in any order.

    dtype, attention, remat, unroll: see `parts.base.Numerics`.
    """

    parts: dict[str, Annotated[Any, Files("pretrain.models.parts", "Config", "part")]]
    attention: str = "xla"
    dtype: str = "bfloat16"
    remat: str = "none"
    unroll: int | bool = 1

    def __post_init__(self):
        check_numerics(self.remat, self.dtype, self.unroll)

    def compose(self, modalities: tuple[Modality, ...], embedded: tuple[str, ...]) -> dict:
        """{name: Config} of the parts, for the run's modalities, of which objectives embed some."""
        return in_order(self.parts)

    @property
    def numerics(self) -> Numerics:
        return Numerics(self.dtype, self.attention, self.remat, self.unroll)


class Network(nnx.Module):
    """The parts are attributes under their names, and their parameters lie there: `encoder/blocks/attn/…`."""

    def __init__(self, config, modalities: tuple[Modality, ...], embedded: tuple[str, ...], rngs: nnx.Rngs):
        """config: of a composition: what has `compose` and `numerics`, as `Config` has."""
        self.modalities, self.embedded = modalities, embedded
        parts = config.compose(modalities, embedded)
        self.states, key = describe(parts, modalities), rngs.params()
        for name, part in parts.items():
            if name in dir(Network) or name in ("modalities", "embedded", "states"):
                raise ValueError(f"model.parts: {name!r}: a network has something else of that name; choose another")
            build = Build(name, parts, modalities, part.numerics or config.numerics)
            made = part.make(build, nnx.Rngs(named(key, name)))
            if part.gives == STREAM and not part.depth and (readers := self._readers(name)):
                mark(made, depth=max(readers) + 1)  # what lies before an encoder's blocks counts as one more
            setattr(self, name, made)

    def run(self, part: str, *args, keys=None, layers: bool = False, edit=None, **options):
        """What a part gives for its arguments; keys, layers, edit: see `Asked`. Profiles and plans know it by its name.
        ValueError where it takes no edit."""
        if edit is not None and not self.states[part].edited:
            raise ValueError(f"model.parts: {part!r}: nothing can be changed inside of it (`models.edits`)")
        with jax.named_scope(part):
            return getattr(self, part)(*args, asked=Asked(self, keys, layers, edit), **options)

    def reads_layers(self, node: Call) -> bool:
        """Whether a call reads what every block of its first argument gave."""
        first = next(iter(node.args), None)
        return isinstance(first, Call) and first.part == node.part

    def _readers(self, name: str) -> list[int]:
        """The depths of the encoders that read an embedding."""
        return [c.depth for n, c in self.states.parts if c.depth and self.states.below(n) == [name]]


def in_order(parts: dict) -> dict:
    """The parts, each behind those that it reads, else by name: ConfigDicts and JSON keep no other order of keys, and
    a run and its restored workdir must be the same network. ValueError where parts read each other in a circle."""
    placed = {}
    while len(placed) < len(parts):
        rest = sorted(parts.keys() - placed.keys())
        ready = [name for name in rest if not set(parts[name].reads) & set(rest)]
        if not ready:
            raise ValueError(f"model.parts: {', '.join(rest)} read each other in a circle: let one read something else")
        placed |= {name: parts[name] for name in ready}
    return placed


def describe(parts: dict, modalities) -> States:
    """What a network of these parts can do. ValueError where one reads what does not stand before it."""
    names, seen = {m.name for m in modalities}, []
    for name, part in parts.items():
        for read in part.reads:
            if read not in seen and read not in names:
                raise ValueError(
                    f"model.parts: {name!r}: reads={part.reads}: no part {read!r} stands before it, and no modality of "
                    f"the run is called so; there are {', '.join([*seen, *sorted(names)])}"
                )
        seen.append(name)
    return States(tuple(parts.items()), tuple(modalities))
