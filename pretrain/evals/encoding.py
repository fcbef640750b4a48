"""Encoding models: which responses does a network that reads two modalities together predict best?

As sites of a brain are told to integrate vision and language (arXiv 2406.14481).
"""

import collections
import dataclasses

import numpy as np

from pretrain.evals import ridge
from pretrain.evals.base import Score, Task, Unfit
from pretrain.evals.features import together
from pretrain.evals.knn import held_out, inputs
from pretrain.evals.reference import arrays, overlap_field

KINDS = ("both", "vision", "language", "concatenation")


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Ridge regression from pooled features to each site's responses, by folds; the mean r, and which sites integrate.

    A site integrates if `vision+language`, which the network reads together, predicts it better than either alone and
    than a linear map of both side by side: what merely adds up does not count. The same for an untrained network, which
    the harness prints beside, is the control without which none of it means anything.

    responses: the .npz of arrays `row [n]` and `responses [n, sites]`; or a field of words, each of which is a site
    that responds to the examples that have it, if at least `least` have and as many have not.
    """

    place = 87

    vision: str
    language: str
    responses: str
    folds: int = 9
    alphas: tuple[float, ...] = ridge.ALPHAS
    draws: int = 1000
    level: float = 0.05
    least: int = 20
    splits: tuple[str, ...] = ("val", "test")
    seed: int = 0

    def __post_init__(self):
        for key in ("vision", "language"):
            self.check_names(key, (getattr(self, key),))
        if not self.context.network.pools_together((self.vision, self.language)):
            self.fail("language", f"the network does not read it together with {self.vision}: take two that it does")
        if self.folds < 2:
            self.fail("folds", "needs at least 2")
        if not self.alphas or min(self.alphas) <= 0:
            self.fail("alphas", "needs numbers above 0")
        if self.draws < 20:
            self.fail("draws", "needs at least 20 for a p-value of .05")
        if not 0 < self.level < 1:
            self.fail("level", "must be between 0 and 1")

    @staticmethod
    def default(context) -> dict:
        field, names = overlap_field(context), inputs(context, len(context.modalities))
        texts = {m.name for m in context.modalities if m.text}
        pair = next(((a, b) for a in names for b in names if a not in texts and b in texts), None)
        if pair is None or not context.network.pools_together(pair):
            raise Unfit("needs a text that the network reads together with another modality")
        if not field:
            raise Unfit("needs responses (encoding.responses) or a field of words; the data have none")
        task = Evaluator(context, *pair, field, splits=held_out(context))
        if not task._words():
            raise Unfit(f"no word of {field!r} is on {task.least} or more of the held-out examples, and not on as many")
        return dict(vision=pair[0], language=pair[1], responses=field, splits=held_out(context))

    @property
    def needs(self) -> tuple:
        return tuple(m for m in self.context.modalities if m.name in (self.vision, self.language))

    def check_files(self):
        if self.responses.endswith(".npz"):
            arrays(self, "responses", ("row", "responses"))

    def check(self):
        n = len(self._given()[0])
        if n < 8 * self.folds:
            self.fail("folds", f"{n} examples with responses: half a fold needs 4, so at most {n // 8} folds")

    def run(self, params):
        known, responses = self._given()
        specs = (f"{self.vision}+{self.language}", self.vision, self.language)
        rows, features = together(self.context, params, specs, self.splits)
        place = {r: i for i, r in enumerate(known.tolist())}
        found = np.asarray([i for i, r in enumerate(rows.tolist()) if r in place])
        responses = responses[[place[rows[i]] for i in found]]
        both, vision, language = (x[found].astype(np.float64) for x in features)
        spaces = dict(zip(KINDS, (both, vision, language, np.concatenate([vision, language], 1))))
        predictions, wanted = {}, None
        for name, x in spaces.items():
            predictions[name], wanted = ridge.encode(x, responses, self.folds, self.alphas)
            yield f"{name}/r", Score(ridge.pearson(predictions[name], wanted).mean(), 0.0)
        integrate = ridge.best_of(predictions, wanted, "both", self.draws, self.level, self.seed)
        yield "sites", len(integrate)
        yield "sites that integrate", Score(integrate.mean(), 0.0)

    def _given(self) -> tuple[np.ndarray, np.ndarray]:
        """(row `[n]`, responses `[n, sites]`) of examples of the splits."""
        if not self.responses.endswith(".npz"):
            words = self._words()
            if not words:
                self.fail("responses", f"no word is on {self.least} or more examples and not on as many: lower `least`")
            column = self.context.column(self.responses, self.splits, f"{self.where}.responses")
            return np.asarray([*column]), np.asarray([[w in held for w in words] for held in column.values()], float)
        row, responses = arrays(self, "responses", ("row", "responses"))
        responses = np.asarray(responses, np.float64)
        if responses.ndim != 2 or len(responses) != len(row):
            self.fail("responses", f"responses are {responses.shape} for {len(row)} rows: must be [n, sites]")
        if not np.isfinite(responses).all():
            self.fail("responses", "not finite everywhere: leave out what was not recorded")
        here = np.isin(row, list(self.context.facts(self.splits)))
        if constant := np.flatnonzero(np.ptp(responses[here], axis=0) == 0).tolist() if here.any() else []:
            self.fail("responses", f"site {constant[0]} never changes in {self.splits}: leave it out")
        return row[here], responses[here]

    def _words(self) -> list[str]:
        column = self.context.column(self.responses, self.splits, f"{self.where}.responses")
        count = collections.Counter(word for held in column.values() for word in set(held))
        return sorted(w for w, n in count.items() if self.least <= n <= len(column) - self.least)
