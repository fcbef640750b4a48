"""Composition: does the vector of a phrase lie near the mean of those of its words? (Wang, arXiv 2106.08117)"""

import dataclasses

import numpy as np

from data_pipeline.sources.files import Source
from data_pipeline.text import render
from pretrain.evals.base import Score, Task
from pretrain.evals.features import embed_texts, unit
from pretrain.evals.metrics import auroc, auroc_interval, recall, spearman
from pretrain.evals.zero_shot import check_embedded


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """The cosine of phrases of two words or more with the mean of their words' embeddings, and R@1: how often a phrase
    is the nearest to that mean, of all phrases.

    phrases: a field of the run's own examples, as a modality of texts names it (`data_pipeline.text`); or path: a
    folder of `data_pipeline.sources.files` whose lines hold a phrase and a number in `fields`, how much the words say
    of it. Beside it then Spearman of the cosine with the number, and, if it is one of two, 1 for a literal phrase and 0
    for an idiom, the AUROC with the limits of its 95 % interval.
    """

    place = 0

    modalities: tuple[str, ...]
    phrases: str = ""
    path: str = ""
    fields: tuple[str, str] = ("phrase", "literal")
    splits: tuple[str, ...] = ("val", "test")

    def __post_init__(self):
        check_embedded(self, "modalities", self.modalities, texts=True)
        if bool(self.path) == bool(self.phrases):
            self.fail("path", f"phrases={self.phrases!r}: give a folder of rated phrases, or a field, not both")

    @property
    def reads(self) -> dict:
        return {} if self.path else super().reads  # rated phrases have splits of their own

    def check_files(self):
        if self.path:
            Source(self.path, self.splits)

    def check(self):
        phrases, rating = self._given()
        if len(phrases) < 2:
            self.fail("path" if self.path else "phrases", f"{len(phrases)} phrases of several words in {self.splits}")
        if rating is not None and len(set(rating)) < 2:
            self.fail("fields", f"{self.fields[1]!r} is {rating[0]} of every phrase: needs literal ones and others")

    def run(self, params):
        phrases, rating = self._given()
        for name in self.modalities:
            whole, composed = self._vectors(params, name, phrases)
            similarity = composed @ whole.T
            cosine = np.diagonal(similarity)
            yield f"{name}/phrases", float(len(phrases))
            yield (
                f"{name}/cosine",
                Score(cosine.mean(), (similarity.sum() - cosine.sum()) / (similarity.size - len(cosine))),
            )
            yield f"{name}/R@1", Score(recall(similarity, 1), 1 / len(phrases))
            if rating is None:
                continue
            yield f"{name}/spearman", Score(spearman(cosine, rating), 0.0)
            if len(values := np.unique(rating)) == 2:
                literal = rating == values[1]
                yield f"{name}/AUROC", Score(auroc(cosine, literal), 0.5)
                for side, limit in zip(("lower", "upper"), auroc_interval(cosine, literal)):
                    yield f"{name}/AUROC, {side} limit", limit

    def _vectors(self, params, name: str, phrases):
        """(embeddings of phrases, means of those of their words), unit length, `[n, E]`."""
        texts = sorted({*phrases, *(word for phrase in phrases for word in phrase.split())})
        place = {text: i for i, text in enumerate(texts)}
        z = unit(embed_texts(self.context, params, name, texts))
        return z[[place[p] for p in phrases]], compose([z[[place[w] for w in p.split()]] for p in phrases])

    def _given(self) -> tuple[list[str], np.ndarray | None]:
        """(phrases of several words, each once; what number each has, or None)."""
        if not self.path:
            source = self.context.source(self.splits)
            texts = {render(self.phrases, source[i]) for i in range(len(source))}
            return sorted(text for text in texts if text and len(text.split()) > 1), None
        source, rated = Source(self.path, self.splits), {}
        for i in range(len(source)):
            example = source[i]
            if missing := [f for f in self.fields if f not in example]:
                self.fail("fields", f"line {i + 1} of {self.splits} lacks {missing[0]!r}; it has {', '.join(example)}")
            if len(example[self.fields[0]].split()) > 1:
                rated[example[self.fields[0]]] = float(example[self.fields[1]])
        return list(rated), np.asarray(list(rated.values()))

    def figures(self, params, images):
        """The phrases whose words say most and least of them."""
        from pretrain.evals.pictures import bars

        phrases, _ = self._given()
        for name in self.modalities:
            whole, composed = self._vectors(params, name, phrases)
            cosine = (whole * composed).sum(1)
            order = np.argsort(-cosine, kind="stable")
            ends = dict.fromkeys([*order[:8], *order[-8:]])
            yield f"How near {name} is to the mean of its words", bars({phrases[i]: float(cosine[i]) for i in ends})


def compose(words) -> np.ndarray:
    """The mean vectors, unit length `[n, E]`, of lists of word vectors `[k, E]` of unit length."""
    return unit(np.stack([np.mean(own, axis=0) for own in words]))
