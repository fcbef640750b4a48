"""Retrieval between any two modalities, or sets of them, among held-out examples."""

import dataclasses
import itertools

import numpy as np

from pretrain.evals import raw
from pretrain.evals.base import Score, Task, parts, some, split_made
from pretrain.evals.features import together, unit
from pretrain.evals.knn import held_out
from pretrain.evals.metrics import (
    average_precision,
    average_precision_chance,
    recall,
    reciprocal_rank,
    reciprocal_rank_chance,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """R@k and MRR of a→b and b→a: where the own partner stands among all candidates by cosine of the embeddings.

    pairs: (a, b), each a modality or several joined by +: a query of several is the mean of their embeddings.
    (a>c, b>c): through c predicted of each, such as global features of a frozen network (4M-21, arXiv 2406.09406).
    label: a field; then mAP, where all examples with the query's label are relevant.
    Two pictures, or two texts of one tokenizer, stand beside what their pixels or tokens retrieve (`raw`).
    """

    place = 20

    pairs: tuple[tuple[str, str], ...]
    splits: tuple[str, ...] = ("val", "test")
    at: tuple[int, ...] = (1, 5, 10)
    label: str = ""

    def __post_init__(self):
        self.check_names("pairs", {n for pair in self.pairs for n in pair})
        for pair in self.pairs:
            made = {split_made(spec)[1] for spec in pair}
            if len(made) > 1:
                self.fail("pairs", f"{pair}: only what is predicted of the same modality can be compared")
            if made != {""}:
                continue
            names = {name for spec in pair for name in parts(spec)}
            strangers = names - set(self.context.embedded)
            if strangers and len(strangers) < len(names):
                self.fail(
                    "pairs",
                    f"{pair}: no objective embeds {', '.join(sorted(strangers))} with the others: there is no common "
                    f"space; embedded are {', '.join(self.context.embedded)}",
                )

    @staticmethod
    def default(context) -> dict:
        reason = f"needs two embedded modalities; the objectives embed {', '.join(context.embedded) or 'none'}"
        names = some(context.embedded, 4, reason, least=2)
        pairs = list(itertools.combinations(names, 2))
        if len(names) > 2:
            pairs.append((f"{names[0]}+{names[-1]}", names[1]))
        return dict(pairs=pairs, label=next(iter(context.labels), ""), splits=held_out(context))

    def check(self):
        if len(self.context.source(self.splits)) < 2:
            self.fail("splits", "1 example; retrieval needs at least two")
        if self.label:
            self.context.column(self.label, self.splits, f"{self.where}.label")

    def run(self, params):
        for a, b in self.pairs:
            rows, (ours, theirs) = together(self.context, params, (a, b), self.splits, "z")
            yield f"{a}↔{b}/candidates", float(len(rows))
            free = raw.together(self.context, (a, b), self.splits)
            free = {} if free is None or len(free[0]) != len(rows) else dict(self._scores(a, b, *free))
            for name, score in self._scores(a, b, rows, (unit(ours), unit(theirs))):
                yield name, Score(score, score.chance, free.get(name))

    def _scores(self, a, b, rows, vectors):
        """(name, score) of both directions; vectors: of a and of b, `[n, D]` each, of unit length."""
        similarity, n, relevant = vectors[0] @ vectors[1].T, len(rows), self._relevant(rows)
        for name, matrix in ((f"{a}→{b}", similarity), (f"{b}→{a}", similarity.T)):
            for k in self.at:
                yield f"{name}/R@{k}", Score(recall(matrix, k), min(k / n, 1))
            yield f"{name}/MRR", Score(reciprocal_rank(matrix), reciprocal_rank_chance(n))
            if relevant is not None:
                chance = average_precision_chance(relevant)
                yield f"{name}/mAP {self.label}", Score(average_precision(matrix, relevant), chance)

    def _relevant(self, rows):
        if not self.label:
            return None
        column = self.context.column(self.label, self.splits, f"{self.where}.label")
        labels = np.asarray([column[r] for r in rows])
        return labels[:, None] == labels

    def figures(self, params, images):
        """The nearest five of some queries, the right one framed, where the candidates are pictures."""
        for a, b in self.pairs[:3]:
            query, gallery = (a, b) if images.has(b) else (b, a)
            if not images.has(gallery):
                continue
            rows, (x, y) = together(self.context, params, (query, gallery), self.splits, "z")
            chosen = np.linspace(0, len(rows) - 1, min(6, len(rows))).round().astype(int)
            near = np.argsort(-(unit(x[chosen]) @ unit(y).T), axis=1)[:, :5]
            name = parts(query)[0]
            yield (
                f"{query} → {gallery}",
                images.nearest(name, gallery, rows[chosen], rows[near], self.splits),
            )
