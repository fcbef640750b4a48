"""Representational similarity analysis: do representations find alike what is rated as alike?

Kriegeskorte et al., Frontiers in Systems Neuroscience 2008; with single raters as in Turing RSA (arXiv 2412.00577).
"""

import dataclasses

import numpy as np

from pretrain.evals import metrics
from pretrain.evals.base import Score, Task, Unfit
from pretrain.evals.features import represent, unit
from pretrain.evals.knn import held_out, inputs
from pretrain.evals.reference import arrays, overlap, overlap_field


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Spearman between the cosines of all pairs of examples and their given similarity, and its p-value.

    reference: the .npz of arrays `row [n]` and `similarity [n, n]` or, of single raters, `[raters, n, n]`; or a field
    whose common words say how similar two examples are (Jaccard). Of several raters the mean is compared, and beside
    it what each agrees with the network (`a rater`) and with the others, the noise ceiling.

    modalities: representations `name`, `name+name`, `name:LAYER`. permutations: of the examples, for p; 0 for none.
    """

    place = 85

    modalities: tuple[str, ...]
    reference: str
    permutations: int = 999
    splits: tuple[str, ...] = ("val", "test")

    def __post_init__(self):
        self.check_names("modalities", self.modalities)
        if self.permutations < 0:
            self.fail("permutations", "must not be negative")

    @staticmethod
    def default(context) -> dict:
        field = overlap_field(context)
        if not field:
            raise Unfit("needs given similarities (rsa.reference) or a field of words; the data have none")
        return dict(modalities=inputs(context), reference=field, splits=held_out(context))

    def check_files(self):
        if self.reference.endswith(".npz"):
            arrays(self, "reference", ("row", "similarity"))

    def check(self):
        if self.reference.endswith(".npz"):
            self._given()
        elif self.reference:
            self.context.column(self.reference, self.splits, f"{self.where}.reference")

    def run(self, params):
        for name in self.modalities:
            rows, x = represent(self.context, params, name, self.splits)
            found, raters = self._reference(rows)
            x, mean = x[found], raters.mean(0)
            yield f"{name}/similarity", Score(metrics.representational_similarity(x, mean), 0.0)
            if self.permutations:
                yield f"{name}/p", metrics.permutation_p(x, mean, self.permutations)
            if len(raters) > 1:
                each = [metrics.representational_similarity(x, rater) for rater in raters]
                yield f"{name}/a rater", Score(np.mean(each), 0.0)
                for side, ceiling in zip(("lower", "upper"), metrics.noise_ceiling(raters)):
                    yield f"{name}/{side} noise ceiling", ceiling

    def _reference(self, rows):
        """(which of the rows it knows, their similarities `[raters, n, n]`)."""
        if not self.reference.endswith(".npz"):
            every = np.arange(len(rows))
            return every, overlap(self.context, self.reference, rows, self.splits, f"{self.where}.reference")[None]
        known, raters = self._given()
        place = {r: i for i, r in enumerate(known.tolist())}
        found = np.asarray([i for i, r in enumerate(rows.tolist()) if r in place])
        order = [place[rows[i]] for i in found]
        return found, raters[:, order][:, :, order]

    def _given(self):
        row, similarity = arrays(self, "reference", ("row", "similarity"))
        raters = similarity if similarity.ndim == 3 else similarity[None]
        if raters.ndim != 3 or not len(raters) or raters.shape[1:] != (len(row), len(row)):
            self.fail("reference", f"similarity is {similarity.shape} for {len(row)} rows: must be square, a row each")
        if not np.isfinite(raters).all():
            self.fail("reference", "similarity is not finite everywhere: leave out rows that were not rated")
        common = set(row.tolist()) & set(self.context.facts(self.splits))
        if len(common) < 4:
            self.fail("reference", f"knows {len(common)} examples of {self.splits}: row must hold 4 or more of them")
        return row, raters

    def figures(self, params, images):
        """The given similarity of a hundred examples beside the network's, the alike next to each other."""
        from pretrain.evals.pictures import maps

        rows, x = represent(self.context, params, self.modalities[0], self.splits)
        found, raters = self._reference(rows)
        given = raters.mean(0)
        axis = np.linalg.eigh(given - given.mean())[1][:, -1]
        order = np.argsort(axis)[np.linspace(0, len(axis) - 1, min(len(axis), 100)).astype(int)]
        own = unit(x[found][order])
        named = {self.reference: given[np.ix_(order, order)], self.modalities[0]: own @ own.T}
        yield "Which examples are alike: as given, and for the network", maps(named)
