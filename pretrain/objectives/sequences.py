"""What a language model reads in one pass: streams of an example one behind another, behind those of another one."""

import dataclasses

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.parts.base import STREAM
from pretrain.models.passes import Call, Leaf
from pretrain.models.tokens import Whole
from pretrain.objectives.base import Context
from pretrain.ops.keys import named


@dataclasses.dataclass(frozen=True)
class Sequence:
    """The same of every objective that shares a pass: say it once in a config, and give it to each.

    join: the part that puts streams one behind another (`parts.sequence`). segments: the parts whose streams these are,
    in order, the text's last. preceded: the probability that in a step every second example of the batch stands behind
    the one before it, as in GILL (arXiv 2305.17216, section 4, and its release). draw: the name of that draw; passes of
    other names draw for themselves.
    """

    join: str
    segments: tuple[str, ...]
    preceded: float = 0.0
    draw: str = ""

    def check(self, context: Context, where: str):
        """ValueError for what the network does not have."""
        network = context.network
        network.need(self.join, f"{where}.join")
        if not self.segments:
            raise ValueError(f"{where}.segments=(): name the parts whose streams are read, the text's last")
        for name in self.segments:
            part, reads = network.need(name, f"{where}.segments"), network.read_by(name)
            if part.gives != STREAM or len(reads) != 1:
                raise ValueError(f"{where}.segments={name!r}: needs a part that gives a stream of one modality")
        if not self.text(context).text:
            raise ValueError(
                f"{where}.segments={self.segments}: the last must be of a text, not of {self.text(context).name!r}"
            )
        if not 0 <= self.preceded <= 1:
            raise ValueError(f"{where}.preceded={self.preceded}: must be a probability, 0…1")

    def modalities(self, context: Context) -> tuple[Modality, ...]:
        """Those of the segments, in order."""
        specs = {m.name: m for m in context.modalities}
        return tuple(specs[context.network.read_by(name)[0]] for name in self.segments)

    def text(self, context: Context) -> Modality:
        return self.modalities(context)[-1]

    def appends(self, context: Context) -> tuple[int, ...]:
        """The ids of the tokens behind the text."""
        return context.network[self.segments[-1]].appends

    def nodes(self, context: Context, train: bool) -> dict[str, Call]:
        """{part: node} of the segments and of their join, for `States.over`. In evaluation nothing stands before an
        example."""
        names = tuple(m.name for m in self.modalities(context))

        def streams(leaf) -> dict:
            return {s: context.network.over(s, {name: leaf(name)}) for s, name in zip(self.segments, names)}

        own, before = streams(lambda name: Leaf(Whole((name,), context.modalities))), {}
        if train and self.preceded:
            make = Preceding(names, self.preceded, self.draw, context.modalities)
            before = streams(lambda name: Leaf(make, name))
        return own | {self.join: context.network.call(self.join, *before.values(), *own.values())}


@dataclasses.dataclass(frozen=True)
class Preceding:
    """What stands before each example → {modality: Shown}: with probability `rate`, drawn once for the batch, all of
    the example before it, of the second, fourth, …; else nothing.

    That is the pair (a, b) as one sequence, computed as a alone and b behind a: what comes first sees nothing of what
    follows.
    """

    names: tuple[str, ...]
    rate: float
    draw: str
    modalities: tuple[Modality, ...]

    def __call__(self, batch, keys) -> dict:
        key = named(keys[0], "preceding", *filter(None, (self.draw,)))
        second = (jnp.arange(len(keys)) % 2 == 1) & jax.random.bernoulli(key, self.rate)
        found = {}
        for name in self.names:
            shown = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), Whole((name,), self.modalities)(batch))
            tokens = shown.tokens
            found[name] = shown._replace(tokens=tokens._replace(valid=tokens.valid & second[:, None]))
        return found


@dataclasses.dataclass(frozen=True)
class Words:
    """What is predicted in a sequence → {"ids", "chosen"} `[B, L + appended]`: the words of its text and the first of
    the tokens behind it, of examples that have all of the modalities. names: theirs, the text's last."""

    names: tuple[str, ...]
    appends: tuple[int, ...]
    modalities: tuple[Modality, ...]

    def __call__(self, batch, keys=None) -> dict:
        sets = [Whole((name,), self.modalities)(batch).tokens for name in self.names]
        text, there = sets[-1], jnp.all(jnp.stack([s.valid.any(1) for s in sets]), axis=0)
        shape = len(text.ids), len(self.appends)
        first = jnp.broadcast_to(jnp.arange(len(self.appends)) == 0, shape)
        ids = jnp.concatenate([text.ids, jnp.broadcast_to(jnp.asarray(self.appends, jnp.int32), shape)], axis=1)
        return {"ids": ids, "chosen": jnp.concatenate([text.valid, first], axis=1) & there[:, None]}
