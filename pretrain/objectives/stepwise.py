"""Decoders on every state of a network that takes in one modality after another (MultiModN, arXiv 2309.14118,
section 3)."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.passes import Leaf
from pretrain.models.stream import NO_MODALITY
from pretrain.models.tokens import Whole
from pretrain.objectives.absence import Absent
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.corruptions import Label
from pretrain.schedule import Coefficient

SKIPS = ("example", "batch")
CHANGE = "change"


@dataclasses.dataclass(frozen=True)
class Objective:
    """error · mean_{i=0…E, d} CE(dec_d(s_i), y_d) + .01 · change · mean_{i=1…E} ‖s_i − s_{i−1}‖² / dim.

    s_i are the states that `parts.state` gives, dec_d the scores of a decoder. As in the release, a step whose modality
    an example lacks adds nothing, and stays in the denominator; ‖·‖² is a mean over the numbers of a state.
    Beside it the accuracy of every decoder behind every modality, LABEL/MODALITY, and of the first state, LABEL/start.

    inputs: the modalities that are shown, whole. decoders: {label: the part that scores its classes}.
    every: whether each state is decoded, or, to compare with, only the last that an example has, by itself.
    In training only: dropout, of what encoders read; absent, the probability that an example loses a modality,
    whatever its label; skip: whose encoder is left out where a modality is missing, that of the `example`, or, as in
    the release, that of the whole `batch`.
    """

    context: Context
    inputs: tuple[str, ...]
    decoders: dict[str, str]
    error: float = 1.0
    change: float = 0.0
    every: bool = True
    dropout: float = 0.0
    absent: float = 0.0
    skip: str = "example"
    coef: Coefficient = 1.0

    scope = EXAMPLE
    embedded = ()

    def __post_init__(self):
        specs, network = {m.name: m for m in self.context.modalities}, self.context.network
        if not self.inputs or [n for n in self.inputs if n not in specs or not specs[n].inputs]:
            self.fail(
                "inputs", f"must be of the network's inputs, {', '.join(n for n, m in specs.items() if m.inputs)}"
            )
        if not self.decoders:
            self.fail("decoders", "name the part that scores each label, {label: part}")
        labels = {m.name: m.vocab_size for m in self.context.labels if m.form == "ids"}
        for label, part in self.decoders.items():
            if label not in labels or label == CHANGE:
                self.fail("decoders", f"no such labels {label!r} in config.labels; there are: {', '.join(labels)}")
            scores = network.need(part, f"objectives.stepwise.decoders.{label}")
            if scores.dim != labels[label]:
                self.fail("decoders", f"{part!r} gives dim={scores.dim} scores, {label!r} has {labels[label]} classes")
        read = {network[part].reads for part in self.decoders.values()}
        if read != {(network.encodes(self.inputs),)}:
            self.fail("decoders", "all must read the one part that encodes all inputs, a `state`")
        for key in ("error", "change"):
            if getattr(self, key) < 0:
                self.fail(key, "must not be negative; 0 is none")
        for key in ("dropout", "absent"):
            if not 0 <= getattr(self, key) < 1:
                self.fail(key, "must be at least 0 and below 1")
        if self.skip not in SKIPS:
            self.fail("skip", f"must be one of {', '.join(SKIPS)}")

    def fail(self, key, remedy):
        raise ValueError(f"objectives.stepwise.{key}={getattr(self, key)!r}: {remedy}")

    @property
    def state(self) -> str:
        """The part whose states are decoded."""
        return self.context.network.encodes(self.inputs)

    @property
    def steps(self) -> int:
        """E, how many modalities the state takes in."""
        return self.context.network[self.state].depth

    @property
    def tokens_per_example(self) -> int:
        return sum(m.length for m in self.context.modalities if m.name in self.inputs)

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        """The tokens shown, the states, and of every label its scores and classes."""
        network, modalities = self.context.network, self.context.modalities
        shown = Leaf(Whole(self.inputs, modalities))
        if train and (self.absent or self.skip == "batch"):
            shown = Leaf(Absent(self.inputs, self.absent, self.skip == "batch", modalities))
        stream = network.chain(self.state, shown)
        if train and self.dropout:
            stream = network.call(self.state, *stream.args, drop=self.dropout)
        scores = {("scores", label): network.call(part, stream) for label, part in self.decoders.items()}
        classes = {("class", label): Leaf(Label(label)) for label in self.decoders}
        return {"shown": shown, "states": stream} | scores | classes

    def weights(self, data) -> dict:
        count = lambda which: which.sum().astype(jnp.float32)
        known, tokens = self._known(data), data["shown"].tokens
        out = {CHANGE: count(jnp.stack(list(known.values())).any(0)) * self.steps}
        for label in self.decoders:
            states = self.steps + 1 if self.every else 1
            out |= {label: count(known[label]) * states, f"{label}/start": count(known[label])}
            for name, number in self._numbers.items():
                present = (tokens.valid & (tokens.modality == number)).any(1)
                out[f"{label}/{name}"] = count(known[label] & present)
        return out

    def totals(self, params, outputs, *, train, run) -> dict:
        stream, known = outputs["states"], self._known(outputs)
        if stream.x.shape[1] != self.steps + 1:
            self.fail("decoders", f"{self.state!r} gives no state before and behind each modality: use a `state`")
        squares = jnp.square(jnp.diff(stream.x, axis=1)).mean(-1)  # zero where a step was left out
        examples = jnp.stack(list(known.values())).any(0)
        out = {CHANGE: jnp.where(examples, squares.sum(1), 0.0).sum()}
        for label in self.decoders:
            counted = known[label][:, None] & stream.valid
            scores, target = outputs["scores", label].x, outputs["class", label]["ids"][:, None]
            log_p = jax.nn.log_softmax(scores)
            nll = -jnp.take_along_axis(log_p, jnp.broadcast_to(target, counted.shape)[..., None], axis=-1)[..., 0]
            hits = counted & (scores.argmax(-1) == target)
            out[label] = jnp.where(counted & self._decoded(stream.valid), nll, 0.0).sum()
            for name, number in {"start": NO_MODALITY, **self._numbers}.items():
                out[f"{label}/{name}"] = (hits & (stream.modality == number)).sum().astype(jnp.float32)
        return out

    def loss_weight(self, name) -> float:
        if name == CHANGE:
            return 0.01 * self.change
        return self.error / len(self.decoders) if name in self.decoders else 0.0

    def _decoded(self, valid):
        """Which states `[B, E + 1]` the loss is of."""
        return valid if self.every else valid & (jnp.cumsum(valid[:, ::-1], axis=1)[:, ::-1] == 1)

    @property
    def _numbers(self) -> dict:
        """{input: its number among the run's modalities}."""
        return {m.name: i for i, m in enumerate(self.context.modalities) if m.name in self.inputs}

    def _known(self, data) -> dict:
        """{label: which examples have it, `[B]`}."""
        return {label: data["class", label]["valid"] for label in self.decoders}
