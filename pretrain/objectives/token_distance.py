"""Tokens that a network predicts, against those that another encoder makes of the same example."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.parts.base import STREAM
from pretrain.models.parts.predict import NUMBERS
from pretrain.models.passes import Leaf
from pretrain.models.tokens import Whole
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.sequences import Sequence
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Objective:
    """The mean over examples of the mean over target tokens m of ‖y_m − t_m‖₂, which is not squared (GILL, arXiv
    2305.17216, equation 4; its release). No gradient reaches t, nor, at a distance of 0, y.

    sequence: what a language model reads. found: a `parts.predict` of tokens y `[B, M, D]` above it. target: the part
    whose stream is t `[B, M, D]`, of one modality.
    """

    context: Context
    sequence: Sequence
    found: str
    target: str
    coef: Coefficient = 1.0

    scope, embedded = EXAMPLE, ()

    def __post_init__(self):
        network, where = self.context.network, "objectives.token_distance"
        if not network.parts:
            return
        self.sequence.check(self.context, f"{where}.sequence")
        found, target = network.need(self.found, f"{where}.found"), network.need(self.target, f"{where}.target")
        if found.gives != NUMBERS or network[found.reads[0]].gives != STREAM:
            raise ValueError(f"{where}.found={self.found!r}: needs a part that predicts numbers of every token")
        if target.gives != STREAM or len(network.read_by(self.target)) != 1:
            raise ValueError(f"{where}.target={self.target!r}: needs a part that gives a stream of one modality")
        if found.dim != target.dim:
            raise ValueError(f"{where}.found={self.found!r}: dim={found.dim}, but {self.target!r} has dim={target.dim}")

    @property
    def tokens_per_example(self) -> int:
        lengths = {m.name: m.length for m in self.context.modalities}
        return lengths[self._of] + self.sequence.text(self.context).length

    @property
    def _of(self) -> str:
        """The modality that the target is made of."""
        return self.context.network.read_by(self.target)[0]

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        network, whole = self.context.network, lambda name: Leaf(Whole((name,), self.context.modalities))
        return {
            "text": whole(self.sequence.text(self.context).name),
            "shown": whole(self._of),
            "found": network.over(self.found, self.sequence.nodes(self.context, train)),
            "target": network.over(self.target, {self._of: whole(self._of)}),
        }

    def weights(self, data):
        return {"l2": self._present(data).sum().astype(jnp.float32)}

    def totals(self, params, outputs, *, train, run):
        found, target = outputs["found"], jax.lax.stop_gradient(outputs["target"].x)
        if found.shape != target.shape:
            raise ValueError(
                f"objectives.token_distance.found={self.found!r}: it gives {found.shape[1]} tokens an example, "
                f"{self.target!r} {target.shape[1]}: give its resampler as many queries"
            )
        square = jnp.square(found - target).sum(-1)
        # The root has no slope at 0.
        distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        counted = outputs["target"].valid
        each = jnp.where(counted, distance, 0.0).sum(1) / jnp.maximum(counted.sum(1), 1)
        return {"l2": jnp.where(self._present(outputs), each, 0.0).sum()}

    def loss_weight(self, name) -> float:
        return 1.0

    @staticmethod
    def _present(data):
        return data["text"].tokens.valid.any(1) & data["shown"].tokens.valid.any(1)
