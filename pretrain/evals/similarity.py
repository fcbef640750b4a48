"""Semantic textual similarity: do embeddings order pairs of texts as people do? (SemEval STS, arXiv 1708.00055)"""

import dataclasses

import numpy as np

from data_pipeline.sources.files import Source
from pretrain.evals.base import Score, Task, Unfit, some
from pretrain.evals.features import embed_texts, represent, unit
from pretrain.evals.knn import held_out
from pretrain.evals.metrics import spearman
from pretrain.evals.reference import overlap, overlap_field


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Spearman correlation of the cosine of text embeddings with a score of each pair. Chance is 0.

    path: a folder of `data_pipeline.sources.files` whose lines hold two texts and a number in `fields`, as STS-B does.
    overlap: without such a folder, a field of the run's own examples: the score of a pair is then what share of their
    words they have in common; pairs that share none do not count, nearly all would.
    """

    place = 60

    modalities: tuple[str, ...]
    path: str = ""
    fields: tuple[str, str, str] = ("sentence1", "sentence2", "score")
    overlap: str = ""
    features: str = "z"
    splits: tuple[str, ...] = ("val", "test")

    def __post_init__(self):
        self.check_names("modalities", self.modalities)
        if self.features not in ("pooled", "z"):
            self.fail("features", "must be pooled or z")
        if bool(self.path) == bool(self.overlap):
            self.fail("path", f"overlap={self.overlap!r}: give a folder of rated pairs, or a field, not both")
        if self.path and self.features != "z":
            self.fail("features", "rated pairs are compared by their embeddings z")

    @property
    def reads(self) -> dict:
        return {} if self.path else super().reads  # rated pairs have splits of their own

    @staticmethod
    def default(context) -> dict:
        known = {m.name for m in context.modalities if m.text}
        texts = [n for n in context.embedded if n in known]
        texts = some(texts, 2, "needs a text modality that an objective embeds")
        field = overlap_field(context)
        if not field:
            raise Unfit("needs rated pairs (similarity.path) or a field of words; the data have none")
        return dict(modalities=texts, overlap=field, splits=held_out(context))

    def check_files(self):
        if self.path:
            Source(self.path, self.splits)

    def check(self):
        if self.overlap:
            self.context.column(self.overlap, self.splits, f"{self.where}.overlap")
        else:
            self._pairs()

    def run(self, params):
        for name in self.modalities:
            if self.path:
                pairs = self._pairs()
                a, b = (unit(embed_texts(self.context, params, name, [p[i] for p in pairs])) for i in (0, 1))
                cosine, wanted = (a * b).sum(1), np.asarray([p[2] for p in pairs])
            else:
                rows, x = represent(self.context, params, name, self.splits, self.features)
                upper = np.triu_indices(len(x), 1)
                wanted = overlap(self.context, self.overlap, rows, self.splits, f"{self.where}.overlap")[upper]
                cosine = (unit(x) @ unit(x).T)[upper]
                cosine, wanted = cosine[wanted > 0], wanted[wanted > 0]
            yield f"{name}/spearman", Score(spearman(cosine, wanted), 0.0)

    def _pairs(self):
        source, pairs = Source(self.path, self.splits), []
        for i in range(len(source)):
            example = source[i]
            missing = [f for f in self.fields if f not in example]
            if missing:
                self.fail("fields", f"line {i + 1} of {self.splits} lacks {missing[0]!r}; it has {', '.join(example)}")
            pairs.append((example[self.fields[0]], example[self.fields[1]], float(example[self.fields[2]])))
        return pairs
