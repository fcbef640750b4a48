"""Whether a text and the objects of a picture belong together."""

import dataclasses

import jax.numpy as jnp

from pretrain.objectives.paired import Paired, cross_entropy


@dataclasses.dataclass(frozen=True)
class Objective(Paired):
    """Cross-entropy of two classes, mismatched and matched, over the examples that have both (LXMERT, arXiv 1908.07490,
    section 3.1.3). Beside it the `accuracy`.

    head: a `parts.predict` of dim=2.
    """

    def check_head(self, head):
        if head.dim != 2:
            self.fail("head", self.head, f"it gives {head.dim} numbers; two classes need dim=2")
        if not self.shown.mismatched:
            self.fail("shown.mismatched", 0.0, "no pair would be mismatched: give their share")

    def passes(self, train: bool) -> dict:
        return {"logits": self.over(self.head)} | {n: self.leaf(n) for n in ("matched", "paired")}

    def weights(self, data):
        return dict.fromkeys(("nll", "accuracy"), data["paired"].sum().astype(jnp.float32))

    def totals(self, params, outputs, *, train, run):
        found = cross_entropy(outputs["logits"], outputs["matched"].astype(jnp.int32))
        return {k: jnp.where(outputs["paired"], v, 0.0).sum() for k, v in found.items()}
