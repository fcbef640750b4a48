"""The labels of detected objects, masked or not, predicted beside the text."""

import dataclasses

import jax.numpy as jnp

from pretrain.models.parts.base import STREAM
from pretrain.models.passes import Leaf
from pretrain.objectives.corruptions import Entry
from pretrain.objectives.paired import Labelled, cross_entropy


@dataclasses.dataclass(frozen=True)
class Objective(Labelled):
    """Σ confidence · −log p of a label / (rate · objects), over all objects (LXMERT, arXiv 1908.07490, section 3.1.2;
    as its release has it: all count, not the masked alone, each as sure as the detector is of it, `kinds.detections`,
    and their mean is divided by the rate of masking). Beside it the `accuracy` over all objects.
    """

    form, of = "vectors", STREAM

    def __post_init__(self):
        super().__post_init__()
        if not self.shown.regions:
            self.fail("shown.regions", 0.0, "the loss is divided by it: give the share of masked objects")

    @property
    def labels(self) -> int:
        return self.spec(self.shown.objects).length

    def passes(self, train: bool) -> dict:
        return {"logits": self.over(self.head), "label": Leaf(Entry(self.label)), "objects": self.leaf("objects")}

    def weights(self, data):
        objects = self._known(data).sum().astype(jnp.float32)
        return {"nll": self.shown.regions * objects, "accuracy": objects}

    def totals(self, params, outputs, *, train, run):
        known, (number, confidence) = self._known(outputs), jnp.moveaxis(outputs["label"]["vectors"], -1, 0)
        found = cross_entropy(outputs["logits"], number.astype(jnp.int32))
        found["nll"] *= confidence
        return {k: jnp.where(known, v, 0.0).sum() for k, v in found.items()}

    def _known(self, data):
        return data["label"]["valid"] & data["objects"].tokens.valid
