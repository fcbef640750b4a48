"""All columns of the row's label (GAP, arXiv 2208.05318; IRRA, arXiv 2303.12501)."""

import dataclasses

from pretrain.models.passes import Leaf
from pretrain.objectives.corruptions import Label
from pretrain.objectives.targets import base


@dataclasses.dataclass(frozen=True)
class Target(base.Target):
    """label: of `config.labels`. sharpness: 0 spreads a row's weight evenly over the columns of its label (IRRA); else
    it is softmax(sharpness · same label), of which others keep a little (GAP: 10).

    An example without a label is of a kind of its own. Where all of a label share one text, cross-entropy from this
    and from the own column are equal in value and gradient.
    """

    label: str
    sharpness: float = 0.0

    def check(self, objective):
        known = {m.name: m for m in objective.context.labels if m.form == "ids"}
        if self.label not in known:
            there = ", ".join(known) or "none"
            objective.fail("target.label", f"no such labels in config.labels; there are {there}", self.label)
        if known[self.label].vocab_size == 1:
            objective.fail("target.label", "all examples are of one class: leave the target out", self.label)
        if self.sharpness < 0:
            objective.fail("target.sharpness", "must not be negative; 0 is an even spread", self.sharpness)

    def passes(self, objective, train: bool) -> dict:
        return {"label": Leaf(Label(self.label))}

    def sides(self, objective, outputs, edge, present):
        return outputs["label"], outputs["label"]

    def __call__(self, candidates, scale, rows, columns):
        same = (rows["ids"][:, None] == columns["ids"]) & rows["valid"][:, None] & columns["valid"]
        same = (same | (candidates.weights > 0)) & candidates.counted
        if self.sharpness:
            return candidates.toward(self.sharpness * same)
        return candidates._replace(weights=same / same.sum(1, keepdims=True))
