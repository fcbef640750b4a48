"""Do two spaces that were never trained together agree in some of their directions? (arXiv 2503.05283)"""

import dataclasses

import numpy as np

from pretrain.evals import alignment, metrics
from pretrain.evals.base import Score, Task
from pretrain.evals.features import together, unit
from pretrain.evals.knn import held_out, inputs


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """R@1 of partners in the held-out splits, after a map that is learned from `anchors` examples of `train`.

    Of pairs of pooled features or layers `name:LAYER`: `affine`, a linear map between the whole spaces; `PCA`, between
    their k directions of the largest variance; `CCA`, between the k in which the anchors correlate most; `local CKA`,
    which of the candidates fits best among the anchors, as they are and in CCA's directions. k is chosen among
    `directions` by R@1 of CCA on the other half of the anchors, for all.
    """

    place = 82

    pairs: tuple[tuple[str, str], ...]
    anchors: int = 400
    directions: tuple[int, ...] = (5, 10, 20, 50)
    ridge: float = 1e-2
    train: str = "train"
    splits: tuple[str, ...] = ("val", "test")
    seed: int = 0

    def __post_init__(self):
        self.check_names("pairs", {n for pair in self.pairs for n in pair})
        if not self.directions or min(self.directions) < 1:
            self.fail("directions", "needs numbers of 1 and more")
        if not self.ridge > 0:
            self.fail("ridge", "must be above 0: variances of few anchors have no inverse")
        if self.anchors // 2 <= max(self.directions):
            self.fail(
                "anchors",
                f"{max(self.directions)} directions are chosen on half of them: needs more than twice as many",
            )

    @staticmethod
    def default(context) -> dict:
        names = inputs(context)
        pairs = [(names[0], other) for other in names[1:]] or [(f"{names[0]}:0", f"{names[0]}:-1")]
        most = len(context.source(context.run.data.train))
        count = min(400, most)
        fits = tuple(k for k in (5, 10, 20, 50) if 2 * k < count) or (1,)
        return dict(pairs=pairs, anchors=count, directions=fits, splits=held_out(context))

    def check(self):
        most = len(self.context.source(self.train))
        if self.anchors > most:
            self.fail("anchors", f"{self.train} has {most} examples: take as many or fewer")

    def run(self, params):
        for a, b in self.pairs:
            _, known = together(self.context, params, (a, b), self.train)
            rows, shown = together(self.context, params, (a, b), self.splits)
            chosen = np.random.default_rng(self.seed).permutation(len(known[0]))[: self.anchors]
            known = [x[chosen] for x in known]
            fits = [k for k in self.directions if k <= min(len(chosen) // 2 - 1, *(x.shape[1] for x in known))]
            if not fits:
                self.fail("directions", f"{len(chosen)} anchors of {a}~{b} allow none of them: name smaller ones")
            k = choose(*known, fits, self.ridge)
            yield f"{a}~{b}/directions", k
            for name, similarity in maps(*known, *shown, k, self.ridge).items():
                yield f"{a}~{b}/{name}", Score(metrics.recall(similarity, 1), 1 / len(rows))


def maps(known_a, known_b, a, b, k: int, ridge: float) -> dict[str, np.ndarray]:
    """{map: similarity `[n, n]` of a `[n, D]` and b `[n, E]`}; known_a, known_b: the anchors."""
    known = known_a, known_b
    whole = (lambda x: x - known_a.mean(0), lambda x: x - known_b.mean(0))
    of_a, of_b = cca = alignment.cca(*known, k, ridge)
    return {
        "affine": moved(*known, a, b, *whole, ridge),
        "PCA": moved(*known, a, b, *(alignment.pca(x, min(k, *x.shape)) for x in known), ridge),
        "CCA": moved(*known, a, b, *cca, ridge),
        "local CKA": alignment.local_cka(a, b, *known),
        "local CKA in CCA": alignment.local_cka(of_a(a), of_b(b), of_a(known_a), of_b(known_b)),
    }


def moved(known_a, known_b, a, b, of_a, of_b, ridge: float) -> np.ndarray:
    """The cosines `[n, n]` of a, moved from its space to b's by the affine map of the anchors, and b."""
    return unit(alignment.affine(of_a(known_a), of_b(known_b), ridge)(of_a(a))) @ unit(of_b(b)).T


def choose(a, b, directions, ridge: float) -> int:
    """The number of directions, the least of equals, in which CCA of half of the anchors matches the others best."""
    half = len(a) // 2
    known, rest = (a[:half], b[:half]), (a[half:], b[half:])
    scores = {
        k: metrics.recall(moved(*known, *rest, *alignment.cca(*known, k, ridge), ridge), 1) for k in sorted(directions)
    }
    return max(scores, key=scores.get)
