"""Analogies: is a to b as c to d? Of word vectors, as reviewed in arXiv 2411.05036."""

import dataclasses

import numpy as np

from pretrain.evals.base import Score, Task
from pretrain.evals.features import embed_texts, unit
from pretrain.evals.zero_shot import check_embedded


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Of each relation how often d is the nearest by cosine to b − a + c, unit vectors, of all texts of the relations
    but a, b and c (3CosAdd: Mikolov et al., NAACL 2013); and, without which this says little, how often d is the
    nearest to c alone (`c alone`: Rogers et al., *SEM 2017). Chance is one in the candidates.

    relations: {name: pairs of texts (a, b)} that stand to each other in the same way; every two pairs of one are an
    analogy, each way.
    """

    place = 0

    modalities: tuple[str, ...]
    relations: dict[str, tuple[tuple[str, str], ...]]

    def __post_init__(self):
        check_embedded(self, "modalities", self.modalities, texts=True)
        for name, pairs in self.relations.items():
            if len(pairs) < 2 or any(len(pair) != 2 for pair in pairs):
                self.fail("relations", f"{name!r}: give two pairs of texts or more")
            if any(len({*p, *q}) < 4 for i, p in enumerate(pairs) for q in pairs[:i]):
                self.fail("relations", f"{name!r}: its pairs have a text in common: a, b, c and d must differ")
        if not self.relations:
            self.fail("relations", "name one")

    def run(self, params):
        texts = sorted({text for pairs in self.relations.values() for pair in pairs for text in pair})
        place = {text: i for i, text in enumerate(texts)}
        for modality in self.modalities:
            z = unit(embed_texts(self.context, params, modality, texts))
            for name, pairs in self.relations.items():
                asked = analogies(np.asarray([[place[text] for text in pair] for pair in pairs]))
                chance = 1 / (len(texts) - 3)
                yield f"{modality}/{name}", Score(solved(z, asked), chance)
                yield f"{modality}/{name}, c alone", Score(solved(z, asked, alone=True), chance)


def analogies(pairs) -> np.ndarray:
    """pairs `[n, 2]` → every two of them, each way round and the other, `[4 n (n − 1) / 2, 4]`: a to b as c to d."""
    one, two = (i.ravel() for i in np.nonzero(~np.eye(len(pairs), dtype=bool)))
    ahead = np.concatenate([pairs[one], pairs[two]], 1)
    return np.concatenate([ahead, ahead[:, [1, 0, 3, 2]]])


def solved(z, asked, *, alone: bool = False) -> float:
    """z `[texts, E]` of unit length; asked `[n, 4]` → how often d is found; alone: of c alone. Ties count against d."""
    a, b, c, d = asked.T
    score = unit(z[c] if alone else z[b] - z[a] + z[c]) @ z.T
    own = np.take_along_axis(score, d[:, None], 1)
    np.put_along_axis(score, asked[:, :3], -np.inf, 1)
    return float(((score >= own).sum(1) <= 1).mean())
