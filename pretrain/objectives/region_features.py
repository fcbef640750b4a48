"""The features of masked objects, predicted from the others and from the text beside them."""

import dataclasses

import jax.numpy as jnp

from pretrain.models.parts.base import STREAM
from pretrain.objectives.paired import Paired


@dataclasses.dataclass(frozen=True)
class Objective(Paired):
    """Σ over masked objects of the mean over numbers of smooth L1 / (rate · objects) (LXMERT, arXiv 1908.07490, section
    3.1.2: RoI-feature regression; as its release has it, with |e| − ½ from |e| = 1 on, e² / 2 below).

    head: a `parts.predict` of the objects, as wide as their features.
    """

    of = STREAM

    def __post_init__(self):
        super().__post_init__()
        if not self.shown.regions:
            self.fail("shown.regions", 0.0, "no object would be masked: give their share")

    def check_head(self, head):
        width = self.spec(self.shown.objects).width
        if head.dim != width:
            self.fail("head", self.head, f"it gives {head.dim} numbers, but features have {width}: set its dim")

    def passes(self, train: bool) -> dict:
        return {"found": self.over(self.head)} | {n: self.leaf(n) for n in ("features", "regions", "objects")}

    def weights(self, data):
        return {"smooth_l1": self.shown.regions * data["objects"].tokens.valid.sum().astype(jnp.float32)}

    def totals(self, params, outputs, *, train, run):
        e = jnp.abs(outputs["found"] - outputs["features"])
        loss = jnp.where(e < 1, 0.5 * e * e, e - 0.5).mean(-1)
        return {"smooth_l1": jnp.where(outputs["regions"], loss, 0.0).sum()}
