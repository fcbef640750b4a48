"""Classification by texts among the classes that were trained on, and among others: base-to-novel generalisation."""

import dataclasses

import numpy as np

from pretrain.evals import zero_shot
from pretrain.evals.base import Score
from pretrain.evals.features import represent, unit
from pretrain.evals.knn import labels_of


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(zero_shot.Evaluator):
    """Accuracy of examples of `base` classes among these, of the others among those, and the harmonic mean of both
    (CoCoOp, arXiv 2203.05557, section 4.1; MaPLe, arXiv 2210.03117, section 4.1). Ties count against the class.

    base: names of labels; () for the first half of them, sorted, one more where they are odd.
    """

    place = 0

    base: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if self.base and len(self.labels) > 1:
            self.fail("labels", "`base` names classes of one label: take an evaluation each")

    def check(self):
        super().check()
        for label in self.labels:
            classes = self.context.classes(label, self.train, self.splits, f"{self.where}.labels")
            if unknown := set(self.base) - set(classes):
                self.fail("base", f"no example is labelled {min(unknown)!r}; labels are {', '.join(classes[:20])}")
            if len(self.base) == len(classes):
                self.fail("base", "leave some classes out, which are novel")

    def run(self, params):
        for label in self.labels:
            classes = np.asarray(self.context.classes(label, self.train, self.splits, f"{self.where}.labels"))
            base = np.isin(classes, self.base or classes[: -(-len(classes) // 2)])
            heads = self._heads(params, classes)
            for name in self.modalities:
                rows, z = represent(self.context, params, name, self.splits, "z")
                wanted, z = labels_of(self, label, rows), unit(z)
                found = {}
                for key, chosen in (("base", base), ("novel", ~base)):
                    mine = np.isin(wanted, classes[chosen])
                    found[key] = among(z[mine], heads[chosen], np.searchsorted(classes[chosen], wanted[mine]))
                    yield f"{name}/{label}/{key}", Score(found[key], 1 / chosen.sum())
                chance = harmonic(1 / base.sum(), 1 / (~base).sum())
                yield f"{name}/{label}/harmonic", Score(harmonic(**found), chance)


def among(z, heads, wanted) -> float:
    """How often `z [n, D]` lies nearest to its class's of `heads [C, D]`, all of unit length; 0 where n is."""
    similarity = z @ heads.T
    own = np.take_along_axis(similarity, wanted[:, None], 1)
    return float(((similarity >= own).sum(1) == 1).mean()) if len(z) else 0.0


def harmonic(base: float, novel: float) -> float:
    """H = 2bn / (b + n); 0 where both are."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0
