"""Few-shot classification: the nearest class mean of a few examples (SimpleShot, arXiv 1911.04623)."""

import dataclasses

import numpy as np

from pretrain.evals.base import Score, Task, Unfit
from pretrain.evals.features import represent, unit
from pretrain.evals.knn import held_out, inputs, labels, labels_of


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Accuracy with n training examples a class, mean and standard deviation over draws of them.

    SimpleShot's CL2N: features centred on the mean of the training split, at unit length, compared with each class's
    mean. The draws of a seed are the same for every network. shots: the numbers n.
    """

    place = 50

    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    shots: tuple[int, ...] = (1, 5)
    seeds: int = 10
    features: str = "pooled"
    train: str = "train"
    splits: tuple[str, ...] = ("val", "test")

    def __post_init__(self):
        self.check_names("modalities", self.modalities)
        if self.features not in ("pooled", "z"):
            self.fail("features", "must be pooled or z")
        if not self.shots or min(self.shots) < 1 or self.seeds < 2:
            key = "seeds" if self.seeds < 2 else "shots"
            self.fail(key, "needs numbers of at least 1, and two seeds for a standard deviation")

    @staticmethod
    def default(context) -> dict:
        label = labels(context, 1)
        column = context.column(label[0], context.run.data.train, "few_shot.labels")
        least = np.unique(list(column.values()), return_counts=True)[1].min()
        shots = [n for n in (1, 5, 10) if n <= least]
        if not shots:
            raise Unfit(f"some {label[0]} has no training example")
        return dict(modalities=inputs(context), labels=label, shots=shots, splits=held_out(context))

    def check(self):
        for label in self.labels:
            self.context.classes(label, self.train, self.splits, f"{self.where}.labels")
            column = self.context.column(label, self.train, f"{self.where}.labels")
            names, counts = np.unique(list(column.values()), return_counts=True)
            if counts.min() < max(self.shots):
                fewest = str(names[counts.argmin()])
                self.fail("shots", f"{label}={fewest!r} has {counts.min()} examples in {self.train!r}: lower them")

    def run(self, params):
        for name in self.modalities:
            (rows, bank), (at, queries) = (
                represent(self.context, params, name, s, self.features) for s in (self.train, self.splits)
            )
            bank, queries = unit(bank - bank.mean(0)), unit(queries - bank.mean(0))
            for label in self.labels:
                classes, known = np.unique(labels_of(self, label, rows, self.train), return_inverse=True)
                wanted = np.searchsorted(classes, labels_of(self, label, at))
                for n in self.shots:
                    scores = [accuracy(bank, known, queries, wanted, n, seed) for seed in range(self.seeds)]
                    yield f"{name}/{label}/{n}-shot", Score(np.mean(scores), 1 / len(classes))
                    yield f"{name}/{label}/{n}-shot sd", float(np.std(scores, ddof=1))


def accuracy(bank, labels, queries, wanted, n: int, seed: int) -> float:
    """bank `[N, D]`, labels int `[N]`, queries `[m, D]`, wanted int `[m]` → accuracy of the nearest class mean."""
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(np.flatnonzero(labels == c), n, replace=False) for c in range(labels.max() + 1)]
    means = unit(np.stack([bank[c].mean(0) for c in chosen]))
    return float(((queries @ means.T).argmax(1) == wanted).mean())
