"""Bias of word vectors: whether one set of texts lies nearer to some attributes than another does.

The word embedding association test (Caliskan et al., Science 2017), as reviewed in arXiv 2411.05036.
"""

import dataclasses

import numpy as np

from pretrain.evals.base import Score, Task
from pretrain.evals.features import embed_texts, unit
from pretrain.evals.zero_shot import check_embedded

SETS = ("first", "second", "one", "other")


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Of each test the effect size d, in deviations, of how much nearer `first` lies to `one` attribute than to the
    `other`, and `second` less so, and its one-sided p: how often texts that change sides at random differ as much.

    tests: {name: {"first", "second", "one", "other": texts}}. permutations: for p. An effect of 0 is none.
    """

    place = 0

    modalities: tuple[str, ...]
    tests: dict[str, dict[str, tuple[str, ...]]]
    permutations: int = 9999

    def __post_init__(self):
        check_embedded(self, "modalities", self.modalities, texts=True)
        for name, sets in self.tests.items():
            if set(sets) != set(SETS) or any(not sets[key] for key in SETS):
                self.fail("tests", f"{name!r}: give texts of each of {', '.join(SETS)}")
            if len(sets["first"]) + len(sets["second"]) < 4:
                self.fail("tests", f"{name!r}: a deviation needs four texts or more in first and second")
        if not self.tests or self.permutations < 1:
            self.fail("tests" if not self.tests else "permutations", "needs at least 1")

    def run(self, params):
        for modality in self.modalities:
            for name, sets in self.tests.items():
                z = [unit(embed_texts(self.context, params, modality, list(sets[key]))) for key in SETS]
                effect, p = association(*z, self.permutations)
                yield f"{modality}/{name}", Score(effect, 0.0)
                yield f"{modality}/{name}, p", p


def association(first, second, one, other, permutations: int, seed: int = 0) -> tuple[float, float]:
    """(effect size, p) of sets of unit vectors `[n, E]`.

    s(w) = mean cos(w, one) − mean cos(w, other); d = (mean s(first) − mean s(second)) / deviation of s over both.
    """
    s = np.concatenate([first, second]) @ one.mean(0) - np.concatenate([first, second]) @ other.mean(0)
    n, rng = len(first), np.random.default_rng(seed)
    differs = lambda x: x[..., :n].mean(-1) - x[..., n:].mean(-1)
    drawn = rng.permuted(np.broadcast_to(s, (permutations, len(s))), axis=1)
    p = (1 + (differs(drawn) >= differs(s) - 1e-12).sum()) / (1 + permutations)
    return float(differs(s) / max(s.std(ddof=1), 1e-12)), float(p)
