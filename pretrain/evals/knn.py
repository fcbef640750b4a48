"""k-nearest-neighbour classification on frozen features, as DINO and 4M-21 do it (k=20, τ=0.07)."""

import dataclasses

import numpy as np

from pretrain.evals import raw
from pretrain.evals.base import Score, Task, some
from pretrain.evals.features import represent, unit


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Accuracy per modality and label. The bank is the training split; votes weigh exp(cosine / temperature).

    labels: fields of the examples (`group`, `subgroup`); features: `pooled` encoder output or `z`, the contrastive
    embedding. Chance is the accuracy of always guessing the bank's most frequent label; pictures and texts stand beside
    the same vote by their pixels or tokens (`raw`).
    """

    place = 30

    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    features: str = "pooled"
    k: int = 20
    temperature: float = 0.07
    splits: tuple[str, ...] = ("val", "test")
    bank: str = "train"

    def __post_init__(self):
        self.check_names("modalities", self.modalities)
        if self.features not in ("pooled", "z"):
            self.fail("features", "must be pooled or z")

    @staticmethod
    def default(context) -> dict:
        return dict(modalities=inputs(context), labels=labels(context), splits=held_out(context))

    def check(self):
        for label in self.labels:
            self.context.classes(label, self.bank, self.splits, f"{self.where}.labels")

    def run(self, params):
        for name in self.modalities:
            bank, held_out = (represent(self.context, params, name, s, self.features) for s in (self.bank, self.splits))
            free = [raw.vectors(self.context, name, s) for s in (self.bank, self.splits)]
            for label in self.labels:
                known, wanted = labels_of(self, label, bank[0], self.bank), labels_of(self, label, held_out[0])
                beside = None if None in free else self._accuracy(label, *free)
                yield f"{name}/{label}", Score(self._accuracy(label, bank, held_out), majority(known, wanted), beside)

    def _accuracy(self, label, bank, held_out) -> float:
        """bank, held_out: (rows `[n]`, vectors `[n, D]`)."""
        known, wanted = labels_of(self, label, bank[0], self.bank), labels_of(self, label, held_out[0])
        return (vote(bank[1], known, held_out[1], self.k, self.temperature) == wanted).mean()


def inputs(context, most: int = 3) -> list[str]:
    """The modalities that a task on single ones takes by default, the embedded ones first."""
    rest = [name for name in context.readable if name not in context.embedded]
    return some([*context.embedded, *rest], most, "the network reads no modality")


def labels(context, most: int = 2) -> list[str]:
    """The fields that a task on labels takes by default."""
    return some(context.labels, most, "needs a text field with 5 or more training examples a label; the data have none")


def held_out(context) -> tuple[str, ...]:
    return tuple(some(context.held_out, 2, "the data have neither a split val nor test"))


def labels_of(task, label: str, rows, splits=None):
    """The label of each example `[n]`; splits: the task's own if not given."""
    column = task.context.column(label, splits or task.splits, f"{task.where}.labels")
    return np.asarray([column[r] for r in rows.tolist()])


def majority(known, wanted) -> float:
    """The accuracy on `wanted` of always guessing the most frequent of `known`."""
    names, counts = np.unique(known, return_counts=True)
    return float((wanted == names[counts.argmax()]).mean())


def vote(bank, labels, queries, k: int, temperature: float):
    """bank `[n, D]`, labels `[n]`, queries `[m, D]` → label of each query `[m]`."""
    # Centred on the bank: the mean direction of pooled features says nothing about the class.
    mean = bank.mean(0)
    bank, queries = (unit(x - mean) for x in (bank, queries))
    similarity = queries @ bank.T
    nearest = np.argsort(-similarity, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(similarity, nearest, 1) - 1) / temperature)
    names, index = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(queries), len(names)))
    np.add.at(votes, (np.arange(len(queries))[:, None], index[nearest]), weight)
    return names[votes.argmax(1)]
