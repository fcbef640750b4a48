"""The answer to a question on a picture, one of a list."""

import dataclasses

import jax.numpy as jnp

from pretrain.models.passes import Leaf
from pretrain.objectives.corruptions import Label
from pretrain.objectives.paired import Labelled, cross_entropy


@dataclasses.dataclass(frozen=True)
class Objective(Labelled):
    """Cross-entropy of the answer, over the matched pairs that have one (LXMERT, arXiv 1908.07490, section 3.1.3).
    Beside it the `accuracy`.
    """

    def passes(self, train: bool) -> dict:
        leaves = {"label": Leaf(Label(self.label))} | {n: self.leaf(n) for n in ("matched", "paired")}
        return leaves | {"logits": self.over(self.head)}

    def weights(self, data):
        return dict.fromkeys(("nll", "accuracy"), self._known(data).sum().astype(jnp.float32))

    def totals(self, params, outputs, *, train, run):
        found, known = cross_entropy(outputs["logits"], outputs["label"]["ids"]), self._known(outputs)
        return {k: jnp.where(known, v, 0.0).sum() for k, v in found.items()}

    def _known(self, data):
        return data["label"]["valid"] & data["matched"] & data["paired"]
