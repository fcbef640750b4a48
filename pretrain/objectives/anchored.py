"""What objectives share that compare the similarities of what learns with those of other models: its anchors."""

import dataclasses

import jax

from pretrain.objectives.edges import Reduced, embeddings_of


@dataclasses.dataclass(frozen=True)
class Anchored(Reduced):
    """A loss of every edge beside each anchor, averaged over anchors; edges and reduction as of any pairs.

    A file's Objective has `beside(a, b, x, y, present)` → the sum over present examples of the loss of one edge: a, b
    `[B, D]` of the model that learns by it, x, y `[B, E]` of an anchor, which gets no gradient; present bool `[B]`.
    anchors: names of other models of the run (`config.models`, `config.references`), of embeddings of any width.
    """

    anchors: tuple[str, ...]

    def __post_init__(self):
        super().__post_init__()
        if not self.anchors or len(set(self.anchors)) < len(self.anchors) or self.model in self.anchors:
            self.fail("anchors", f"list other models than {self.model!r}, each once: of config.models or references")
        for name in self.anchors:
            embeddings_of(name, self, "anchors")

    def passes(self, train: bool) -> dict:
        """As of pairs; and {(anchor, modality): embedding `[B, E]` of unit length}."""
        out = super().passes(train)
        for name in self.anchors:
            out |= {(name, m): node for m, node in embeddings_of(name, self, "anchors").items()}
        return out

    def totals(self, params, outputs, *, train, run):
        present, still = self.present(outputs), jax.lax.stop_gradient
        return {
            e.name: sum(
                self.beside(
                    outputs["z", e.a], outputs["z", e.b], still(outputs[name, e.a]), still(outputs[name, e.b]),
                    present[e.a] & present[e.b],
                )
                for name in self.anchors
            ) / len(self.anchors)
            for e in self.edges
        }  # fmt: skip
