"""Retrieval between pairs of modalities among held-out examples."""

import dataclasses

import numpy as np

from pretrain.evals.base import Context
from pretrain.evals.features import features


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """R@k of a→b and b→a: how often the own partner is among the k nearest by cosine similarity of the embeddings.

    Chance is k / candidates. pairs: (a, b) modality names.
    """

    context: Context
    pairs: tuple[tuple[str, str], ...]
    splits: tuple[str, ...] = ("val", "test")
    at: tuple[int, ...] = (1, 5, 10)

    def __post_init__(self):
        known = [m.name for m in self.context.modalities]
        for name in {n for pair in self.pairs for n in pair}:
            if name not in known:
                raise ValueError(f"retrieval.pairs: no modality {name!r}; the run has {', '.join(known)}")

    def run(self, params):
        z = {n: features(self.context, params, n, self.splits) for pair in self.pairs for n in pair}
        for a, b in self.pairs:
            common = np.intersect1d(z[a]["row"], z[b]["row"])
            ours, theirs = (_unit(_rows_of(z[n], common)) for n in (a, b))
            similarity = ours @ theirs.T
            for k in self.at:
                yield f"{a}→{b}/R@{k}", recall(similarity, k)
                yield f"{b}→{a}/R@{k}", recall(similarity.T, k)
        yield "candidates", float(len(common))


def recall(similarity, k: int) -> float:
    """similarity `[n, n]`, partners on the diagonal. Ties count against the partner."""
    rank = (similarity >= np.diagonal(similarity)[:, None]).sum(1)
    return float((rank <= k).mean())


def _rows_of(feature, rows):
    at = {row: i for i, row in enumerate(feature["row"])}
    return feature["z"][[at[row] for row in rows]]


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
