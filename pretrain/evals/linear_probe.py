"""Linear probes: what a logistic regression reads from frozen features."""

import dataclasses

import numpy as np

from pretrain.evals.base import Score, Task, Unfit
from pretrain.evals.features import features
from pretrain.evals.knn import inputs, labels, labels_of, majority
from pretrain.evals.linear import DECAYS, choose


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Accuracy on `splits` of a regression on `train` whose weight decay has the best accuracy on `validation`.

    readouts: `pooled`, the pooled encoder output; `z`, the contrastive embedding; `layers`, one probe for the mean of
    each layer's tokens; `mixture`, a learned weighted mean of all layers.
    """

    place = 40

    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    readouts: tuple[str, ...] = ("pooled", "layers", "mixture")
    decays: tuple[float, ...] = DECAYS
    train: str = "train"
    validation: str = "val"
    splits: tuple[str, ...] = ("test",)

    def __post_init__(self):
        self.check_names("modalities", self.modalities)
        for readout in self.readouts:
            if readout not in ("pooled", "z", "layers", "mixture"):
                self.fail("readouts", "must be of pooled, z, layers, mixture")
        if not self.decays or min(self.decays) <= 0:
            self.fail("decays", "needs weight decays, all positive: separable features have no minimum without")
        if self.validation in self.splits:
            self.fail("splits", f"holds {self.validation!r}, which chooses the weight decay; score on another")

    @staticmethod
    def default(context) -> dict:
        if len(context.held_out) < 2:
            raise Unfit("needs a split val to choose the weight decay on and a split test to score")
        return dict(modalities=inputs(context), labels=labels(context, 1))

    def check(self):
        for label in self.labels:
            for splits in (self.validation, self.splits):
                self.context.classes(label, self.train, splits, f"{self.where}.labels")

    def run(self, params):
        for name in self.modalities:
            found = [self._read(params, name, splits) for splits in (self.train, self.validation, self.splits)]
            for label in self.labels:
                yield from self._probe(name, label, found)

    def _read(self, params, name, splits):
        deep = bool({"layers", "mixture"} & set(self.readouts))
        return splits, features(self.context, params, name, splits, layers=deep)

    def _probe(self, name, label, found):
        names = [labels_of(self, label, f.row, splits) for splits, f in found]
        classes, known = np.unique(names[0], return_inverse=True)
        known, validation, wanted = known, *(np.searchsorted(classes, n) for n in names[1:])
        chance = majority(known, wanted)
        for readout, parts in self._readouts([f for _, f in found]):
            best, _ = choose(parts[0], known, parts[1], validation, len(classes), self.decays)
            yield f"{name}/{label}/{readout}", Score(best.accuracy(parts[2], wanted), chance)

    def _readouts(self, found):
        """(readout, its features `[L, n, D]` of train, validation and test)."""
        for readout in self.readouts:
            if readout in ("pooled", "z"):
                yield readout, [getattr(f, readout)[None] for f in found]
            elif readout == "mixture":
                yield readout, [f.layers for f in found]
            else:
                for i in range(len(found[0].layers)):
                    yield f"layer {i}", [f.layers[i : i + 1] for f in found]

    def figures(self, params, images):
        """The confusion matrix of the first modality, label and readout."""
        from pretrain.evals.pictures import matrix

        name, label = self.modalities[0], self.labels[0]
        found = [self._read(params, name, splits) for splits in (self.train, self.validation, self.splits)]
        names = [labels_of(self, label, f.row, splits) for splits, f in found]
        classes, known = np.unique(names[0], return_inverse=True)
        if len(classes) > 30:
            return
        readout, parts = next(self._readouts([f for _, f in found]))
        best, _ = choose(parts[0], known, parts[1], np.searchsorted(classes, names[1]), len(classes), self.decays)
        counts = np.zeros((len(classes), len(classes)))
        np.add.at(counts, (np.searchsorted(classes, names[2]), best.logits(parts[2]).argmax(1)), 1)
        yield f"{label} from {name} ({readout}): true ↓ guessed →", matrix(counts, classes, classes, "{:.0f}")
