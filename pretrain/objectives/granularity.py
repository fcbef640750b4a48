"""Contrast with a teacher at several granularities: places, clusters of them, wholes (SkySense, arXiv 2312.10115)."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from pretrain.models.parts.base import STREAM
from pretrain.models.passes import Leaf
from pretrain.models.tokens import Whole
from pretrain.objectives.base import BATCH, Context
from pretrain.ops.levels import LEVELS, level_losses, over_frames
from pretrain.schedule import Coefficient

LOSSES = ("infonce", "cosine")


@dataclasses.dataclass(frozen=True)
class Objective:
    """Σ_i L(F_i, F'_i) + align Σ_{i≠j} L(F_i, F'_j): F_i of each of `parts`, of what learns, F'_i of the teacher; L,
    the sum over `levels` of a loss of what lies at one place.

    places: tokens of a frame, which all parts have; frames of one are averaged first. `places`: each place of the
    square; `clusters`: means of places, assigned to `clusters` centres of F'_j by Sinkhorn's algorithm, both sides
    alike; `whole`: the mean of all.
    loss: `infonce` at `temperature`, from what learns to the teacher, among places or clusters of the example, and
    among the wholes of the global batch; `cosine`, 1 − cos, of positive pairs alone.
    view: NAME/VIEW of the batch is what learns is shown (`acquisitions`); the teacher sees NAME.
    """

    context: Context
    parts: tuple[str, ...]
    places: int
    teacher: str
    view: str = ""
    levels: tuple[str, ...] = LEVELS
    align: float = 1.0
    loss: str = "infonce"
    temperature: float = 0.1
    clusters: int = 4
    epsilon: float = 0.05
    iterations: int = 3
    coef: Coefficient = 1.0

    scope, embedded = BATCH, ()
    where = "objectives.granularity"

    def __post_init__(self):
        network, specs = self.context.network, {m.name: m for m in self.context.modalities}
        if not self.levels or not set(self.levels) <= set(LEVELS):
            self.fail("levels", f"name one or more of {', '.join(LEVELS)}")
        if self.loss not in LOSSES:
            self.fail("loss", f"must be one of {', '.join(LOSSES)}")
        if self.align < 0 or not self.temperature > 0 or not self.epsilon > 0:
            self.fail("align", f"not negative; temperature={self.temperature}, epsilon={self.epsilon} positive")
        if not 2 <= self.clusters <= self.places or self.iterations < 1:
            self.fail("clusters", f"must be 2 … places={self.places}, and iterations={self.iterations} at least 1")
        if self.teacher == network.model:
            self.fail("teacher", "name another model than the one that learns")
        if not self.parts or len(set(self.parts)) < len(self.parts):
            self.fail("parts", "name at least one, and each once")
        for name in self.parts if network.parts else ():
            if network.need(name, f"{self.where}.parts").gives != STREAM or not network.joins(name):
                self.fail("parts", "name parts that give a stream of modalities, each embedded alone", name)
            first, *others = (specs[m] for m in self._read(name))
            if not others and first.length % self.places:
                self.fail("places", f"must divide the {first.length} tokens of {first.name!r}")

    def fail(self, key, remedy, *value):
        (value,) = value or (getattr(self, key),)
        raise ValueError(f"{self.where}.{key}={value!r}: {remedy}")

    @property
    def tokens_per_example(self) -> int:
        return sum(m.length for m in self.context.modalities if any(m.name in self._read(p) for p in self.parts))

    def _read(self, part: str) -> tuple[str, ...]:
        return self.context.network.read_by(part)

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        """{("shown", part): leaf, ("student", part), ("teacher", part): stream}."""
        network, out = self.context.network, {}
        teacher = self.context.model(self.teacher, f"{self.where}.teacher")
        view = lambda m: self.context.variant(m, self.view, f"{self.where}.view") if self.view else network.shown(m)
        for name in self.parts:
            read = self._read(name)
            out["shown", name] = Leaf(Whole(read, self.context.modalities))
            out["student", name] = network.over(name, {m: view(m) for m in read})
            out["teacher", name] = teacher.over(name, {m: teacher.shown(m) for m in read})
        return out

    @property
    def _pairs(self) -> list:
        """(a, b): of what learns, of the teacher."""
        return [(a, b) for a in self.parts for b in self.parts if a == b or self.align]

    def present(self, data) -> dict:
        """Which examples have anything of what a part reads, bool `[B]`."""
        return {name: data["shown", name].tokens.valid.any(1) for name in self.parts}

    def weights(self, data):
        there = self.present(data)
        counts = {(a, b): (there[a] & there[b]).sum().astype(jnp.float32) for a, b in self._pairs}
        return {f"{level} {a}~{b}": n for (a, b), n in counts.items() for level in self.levels}

    def totals(self, params, outputs, *, train, run):
        there, out = self.present(outputs), {}
        square = lambda stream: over_frames(stream.x, stream.counted, self.places)
        squares = lambda side: {name: square(outputs[side, name]) for name in self.parts}
        students, teachers = squares("student"), jax.lax.stop_gradient(squares("teacher"))
        clusters = self.clusters, self.epsilon, self.iterations
        temperature = self.temperature if self.loss == "infonce" else 0.0
        for (a, b), level in itertools.product(self._pairs, self.levels):
            both = there[a] & there[b]
            found = level_losses(students[a], teachers[b], both, level, clusters, temperature)
            out[f"{level} {a}~{b}"] = jnp.where(both, found, 0.0).sum()
        return out

    def loss_weight(self, name) -> float:
        a, b = name.partition(" ")[2].split("~")
        return 1.0 if a == b else self.align
