"""Contrast of tokens inside an example: each token against the others of its modality, by what it attends to in the
other one."""

import dataclasses

import jax.numpy as jnp

from pretrain.models.blocks.watched import FIRST
from pretrain.models.parts.base import STREAM
from pretrain.models.parts.watched_encoder import watched_below
from pretrain.models.stream import unit
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.ops.token_pairs import attended_losses, clipped_weights
from pretrain.schedule import Coefficient

WEIGHTINGS = ("attention", "uniform")


@dataclasses.dataclass(frozen=True)
class Objective:
    """`attended_losses` of the tokens of a, which attend to those of b, plus the same of b (MGCA, arXiv 2210.06044,
    section 3.3), the mean over examples that have both. Class tokens and padding take no part.

    a, b: parts that give a stream of one modality each, of one width; they are brought to unit length here.
    temperature: of attention and of logits.
    weighting: of tokens: `attention`, what the class token pays them in the last block of the `watched_encoder` below,
    clipped to its quantiles .1 and .9; or `uniform`.
    """

    context: Context
    a: str
    b: str
    temperature: float = 0.1
    weighting: str = "attention"
    coef: Coefficient = 1.0

    scope, embedded = EXAMPLE, ()
    where = "objectives.token_contrast"

    def __post_init__(self):
        if not self.temperature > 0:
            self.fail("temperature", "must be positive")
        if self.weighting not in WEIGHTINGS:
            self.fail("weighting", f"must be one of {', '.join(WEIGHTINGS)}")
        network = self.context.network
        if not network.parts:
            return
        for key in ("a", "b"):
            part, name = network.need(getattr(self, key), f"{self.where}.{key}"), getattr(self, key)
            if part.gives != STREAM or len(network.read_by(name)) != 1:
                self.fail(key, "name a part that gives a stream of one modality")
            if self.length(name) < 2:
                self.fail(key, "has one token an example, and nothing to tell it from: take a modality of several")
            if self.weighting == "attention" and not watched_below(network, name):
                self.fail(key, "below it is no part='watched_encoder', which tells attention: or weighting='uniform'")
        if network.read_by(self.a) == network.read_by(self.b):
            self.fail("b", f"is of the same modality as a={self.a!r}: name parts of two")
        if network[self.a].dim != network[self.b].dim:
            self.fail("b", f"has dim={network[self.b].dim}, but {self.a!r} has dim={network[self.a].dim}")

    def fail(self, key, remedy):
        raise ValueError(f"{self.where}.{key}={getattr(self, key)!r}: {remedy}")

    def modality(self, part: str) -> str:
        return self.context.network.read_by(part)[0]

    def length(self, part: str) -> int:
        return next(m.length for m in self.context.modalities if m.name == self.modality(part))

    @property
    def tokens_per_example(self) -> int:
        return self.length(self.a) + self.length(self.b)

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        network, out = self.context.network, {}
        for key, part in (("a", self.a), ("b", self.b)):
            m = self.modality(part)
            leaf = {m: network.shown(m)}
            out |= {("shown", key): leaf[m], ("tokens", key): network.over(part, leaf)}
            if self.weighting == "attention":
                out["watched", key] = network.over(watched_below(network, part), leaf)
        return out

    def weights(self, data):
        return {"nll": self._present(data).sum().astype(jnp.float32)}

    def totals(self, params, outputs, *, train, run):
        (x, x_counted), (y, y_counted) = ((unit(outputs["tokens", k].x), outputs["tokens", k].counted) for k in "ab")
        each = attended_losses(x, y, x_counted, y_counted, self._weights(outputs, "a"), self.temperature)
        each += attended_losses(y, x, y_counted, x_counted, self._weights(outputs, "b"), self.temperature)
        return {"nll": jnp.where(self._present(outputs), each, 0.0).sum()}

    def loss_weight(self, name) -> float:
        return 1.0

    def _weights(self, outputs, key):
        """`[B, N]`: of sum 1 over the tokens that count."""
        counted = outputs["tokens", key].counted
        if self.weighting == "uniform":
            return clipped_weights(counted.astype(jnp.float32), counted, 0.0, 1.0)
        attention = outputs["watched", key].aux[FIRST][:, -1]
        if attention.shape != counted.shape:
            self.fail(key, f"has {counted.shape[1]} tokens, of which attention tells {attention.shape[1]}")
        return clipped_weights(attention, counted, 0.1, 0.9)

    @staticmethod
    def _present(data):
        return data["shown", "a"].tokens.valid.any(1) & data["shown", "b"].tokens.valid.any(1)
