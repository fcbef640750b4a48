"""Robustness to missing modalities: a classifier that learned from all inputs is given every subset of them.

From the same subsets: how much each modality matters (arXiv 2408.12763).
"""

import dataclasses
import itertools

import numpy as np

from pretrain.evals import metrics
from pretrain.evals.base import Score, Task, Unfit
from pretrain.evals.features import represent
from pretrain.evals.knn import held_out, inputs, labels, labels_of, majority, vote


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """k-NN accuracy on held-out examples that show only some of the inputs, the bank showing all; mean and worst.

    Importance of a modality: the mean accuracy of the subsets that hold it less that of those that do not, without and
    with the empty one (`… or nothing`, the bank's most frequent label), on the examples that have all inputs.

    inputs: 2 … 6 modalities, of which every non-empty subset is tried. features: `pooled`, the encoder reads them
    together, or `z`, the mean of their embeddings, which is all that towers have.
    """

    place = 70

    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    features: str = "pooled"
    k: int = 20
    temperature: float = 0.07
    bank: str = "train"
    splits: tuple[str, ...] = ("val", "test")

    def __post_init__(self):
        self.check_names("inputs", self.inputs)
        if not 2 <= len(self.inputs) <= 6:
            self.fail("inputs", "needs 2 … 6 modalities: their subsets double with each")
        if self.features not in ("pooled", "z"):
            self.fail("features", "must be pooled or z")
        if self.features == "z" and not set(self.inputs) <= set(self.context.embedded):
            self.fail("inputs", f"features='z' joins embeddings; embedded are {', '.join(self.context.embedded)}")
        if self.features == "pooled" and not _one_trunk(self.context):
            self.fail("features", "towers do not read several modalities together: set features='z'")

    @staticmethod
    def default(context) -> dict:
        together = _one_trunk(context)
        names = inputs(context) if together else list(context.embedded[:3])
        if len(names) < 2:
            raise Unfit(f"needs two modalities; the network reads {', '.join(names)}")
        kind = "pooled" if together else "z"
        return dict(inputs=names, labels=labels(context, 1), features=kind, splits=held_out(context))

    def check(self):
        for label in self.labels:
            self.context.classes(label, self.bank, self.splits, f"{self.where}.labels")

    def run(self, params):
        rows, bank = represent(self.context, params, "+".join(self.inputs), self.bank, self.features)
        sizes = range(len(self.inputs), 0, -1)
        subsets = ["+".join(s) for n in sizes for s in itertools.combinations(self.inputs, n)]
        for label in self.labels:
            known, scores, right = labels_of(self, label, rows, self.bank), [], {}
            for subset in subsets:
                at, x = represent(self.context, params, subset, self.splits, self.features)
                wanted = labels_of(self, label, at)
                guess = vote(bank, known, x, self.k, self.temperature)
                scores.append(Score((guess == wanted).mean(), majority(known, wanted)))
                right[tuple(subset.split("+"))] = dict(zip(at.tolist(), (guess == wanted).tolist()))
                yield f"{label}/{subset}", scores[-1]
            chance = float(np.mean([s.chance for s in scores]))
            yield f"{label}/mean", Score(np.mean(scores), chance)
            yield f"{label}/worst", Score(min(scores), min(s.chance for s in scores))
            yield from self._importance(label, right, known)

    def _importance(self, label, right, known):
        """right: {subset: {row: whether its guess is right}}."""
        rows = sorted(set.intersection(*map(set, right.values())))  # of an example that lacks one all would be told
        if not rows:
            return
        accuracy = {subset: np.mean([found[row] for row in rows]) for subset, found in right.items()}
        for name, value in metrics.modality_importance(accuracy).items():
            yield f"{label}/importance of {name}", Score(value, 0.0)
        accuracy[()] = majority(known, labels_of(self, label, np.asarray(rows)))
        for name, value in metrics.modality_importance(accuracy).items():
            yield f"{label}/importance of {name} or nothing", Score(value, 0.0)


def _one_trunk(context) -> bool:
    return bool(context.network.pools_together(context.readable))
