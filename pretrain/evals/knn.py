"""k-nearest-neighbour classification on frozen features, as DINO and 4M-21 do it (k=20, τ=0.07)."""

import dataclasses

import numpy as np

from pretrain import build
from pretrain.evals.base import Context
from pretrain.evals.features import features


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """Accuracy per modality and label. The bank is the training split; votes weigh exp(cosine / temperature).

    labels: fields of the examples (`group`, `subgroup`); features: `pooled` encoder output or `z`, the contrastive
    embedding. Beside each stands `majority`, the accuracy of always guessing the bank's most frequent label.
    """

    context: Context
    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    features: str = "pooled"
    k: int = 20
    temperature: float = 0.07
    splits: tuple[str, ...] = ("val", "test")
    bank: str = "train"

    def __post_init__(self):
        known = [m.name for m in self.context.modalities]
        for name in self.modalities:
            if name not in known:
                raise ValueError(f"knn.modalities: no modality {name!r}; the run has {', '.join(known)}")
        if self.features not in ("pooled", "z"):
            raise ValueError(f"knn.features={self.features!r}: must be pooled or z")

    def run(self, params):
        truth = {split: self._truth(split) for split in (self.bank, self.splits)}
        for name in self.modalities:
            bank = features(self.context, params, name, self.bank)
            held_out = features(self.context, params, name, self.splits)
            for label in self.labels:
                known = np.asarray([truth[self.bank][r][label] for r in bank["row"]])
                wanted = np.asarray([truth[self.splits][r][label] for r in held_out["row"]])
                guess = vote(bank[self.features], known, held_out[self.features], self.k, self.temperature)
                yield f"{name}/{label}", float((guess == wanted).mean())
        for label in self.labels:
            names, counts = np.unique([t[label] for t in truth[self.bank].values()], return_counts=True)
            wanted = np.asarray([t[label] for t in truth[self.splits].values()])
            yield f"majority/{label}", float((wanted == names[counts.argmax()]).mean())

    def _truth(self, splits) -> dict:
        source = build.source(self.context.run.data, splits)
        examples = (source[i] for i in range(len(source)))
        return {int(e["row"]): {label: e[label] for label in self.labels} for e in examples}


def vote(bank, labels, queries, k: int, temperature: float):
    """bank `[n, D]`, labels `[n]`, queries `[m, D]` → label of each query `[m]`."""
    # Centred on the bank: the mean direction of pooled features says nothing about the class.
    mean = bank.mean(0)
    bank, queries = (x - mean for x in (bank, queries))
    bank, queries = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (bank, queries))
    similarity = queries @ bank.T
    nearest = np.argsort(-similarity, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(similarity, nearest, 1) - 1) / temperature)
    names, index = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(queries), len(names)))
    np.add.at(votes, (np.arange(len(queries))[:, None], index[nearest]), weight)
    return names[votes.argmax(1)]
