"""What the representations are like: their geometry, how much two of them agree, and with what is known otherwise."""

import dataclasses
import itertools

import numpy as np

from pretrain.evals import metrics
from pretrain.evals.base import Score, Task, split_layer
from pretrain.evals.features import features, represent, together
from pretrain.evals.knn import held_out, inputs


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Of `pairs` of embeddings: modality gap and alignment. Of each modality: uniformity and effective rank.

    Of `pairs` of pooled features, or layers `name:LAYER` of them: CKA and mutual k-NN agreement. How similar they are
    to what is given is another task, `rsa`.
    """

    place = 80

    pairs: tuple[tuple[str, str], ...]
    k: int = 10
    splits: tuple[str, ...] = ("val", "test")

    def __post_init__(self):
        self.check_names("pairs", {n for pair in self.pairs for n in pair})
        if self.k < 1:
            self.fail("k", "needs at least one neighbour")

    @staticmethod
    def default(context) -> dict:
        names = inputs(context)
        pairs = list(itertools.combinations(names, 2))
        last = [(f"{names[0]}:0", f"{names[0]}:-1")]
        return dict(pairs=pairs + last, splits=held_out(context))

    def check(self):
        n = len(self.context.source(self.splits))
        if n < max(self.k + 2, 4):
            self.fail("splits", f"{n} examples; k={self.k} neighbours need {max(self.k + 2, 4)}: lower k")

    def run(self, params):
        for a, b in self.pairs:
            name = f"{a}~{b}"
            rows, (x, y) = together(self.context, params, (a, b), self.splits, "z")
            if all(split_layer(n)[1] is None and n in self.context.embedded for n in (a, b)):
                yield f"{name}/gap", metrics.modality_gap(x, y)
                yield f"{name}/alignment", metrics.alignment(x, y)
            rows, (x, y) = together(self.context, params, (a, b), self.splits)
            yield f"{name}/CKA", Score(metrics.cka(x, y), 0.0)
            k = min(self.k, len(rows) - 2)
            yield f"{name}/mutual {k}-NN", Score(metrics.mutual_knn(x, y, k), k / (len(rows) - 1))
        for name in dict.fromkeys(n for pair in self.pairs for n in pair if split_layer(n)[1] is None):
            rows, x = represent(self.context, params, name, self.splits, "z")
            yield f"{name}/uniformity", metrics.uniformity(x)
            yield f"{name}/effective rank", metrics.effective_rank(x)

    def figures(self, params, images):
        """CKA of every layer with every other, of the first pair."""
        from pretrain.evals.pictures import matrix

        names = [split_layer(n)[0] for n in self.pairs[0]]
        found = [features(self.context, params, n, self.splits, layers=True) for n in names]
        rows = np.intersect1d(*(f.row for f in found))
        a, b = (f.at(rows).layers for f in found)
        values = np.asarray([[metrics.cka(x, y) for y in b] for x in a])
        yield f"CKA of the layers of {names[0]} ↓ and {names[1]} →", matrix(values, range(len(a)), range(len(b)))
