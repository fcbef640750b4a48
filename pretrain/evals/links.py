"""Link prediction among all entities of a knowledge graph."""

import collections
import dataclasses

import jax
import numpy as np
from flax import nnx

from data_pipeline import kinds, mixture
from pretrain.evals.base import Score, Task
from pretrain.evals.metrics import reciprocal_rank_chance
from pretrain.models.passes import compute


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """MRR and Hits@k: where the true tail of a head and a relation stands among all entities, and the true head of a
    tail, filtered: other true answers are no candidates (TransE, NIPS 2013, section 4.2). Ties count against it.

    objective: of the run's, a `links`. splits: whose triples are asked; known: whose triples are true.
    drop_head: neither is the entity that is asked from, as in the release of arXiv 2208.02743, unless it is the answer.
    batch_size: queries at once; chunk: entities at once.
    """

    place = 0

    objective: str = "links"
    splits: tuple[str, ...] = ("val", "test")
    known: tuple[str, ...] = ("train", "val", "test")
    at: tuple[int, ...] = (1, 3, 10)
    drop_head: bool = False
    batch_size: int = 128
    chunk: int = 16384

    def __post_init__(self):
        if not hasattr(self.context.objectives.get(self.objective), "scores"):
            self.fail("objective", f"no `links` of the run, which has {', '.join(self.context.objectives)}")
        if min((*self.at, self.batch_size, self.chunk)) < 1:
            self.fail("at", "it, batch_size and chunk must be at least 1")
        if lacking := [split for split in self.splits if split not in self.known]:
            self.fail("known", f"the triples of {lacking[0]!r}, which are asked for, are true: add it")

    @property
    def reads(self):
        return {"splits": self.splits, "known": self.known}

    @property
    def needs(self):
        one = self._objective
        return tuple(m for m in self.context.run.labels if m.name in (one.head, one.relation, one.tail))

    @property
    def _objective(self):
        return self.context.objectives[self.objective]

    def check(self):
        if not len(self.triples(self.splits)):
            self.fail("splits", "no example has a head, a relation and a tail")

    def triples(self, splits) -> np.ndarray:
        """int `[n, 3]`, head, relation, tail, of the examples that have all of them."""
        one, source, specs = self._objective, self.context.source(splits), {m.name: m for m in self.needs}
        specs = [specs[name] for name in (one.head, one.relation, one.tail)]
        found = []
        for i in range(len(source)):
            example = mixture.pick(source, i, {m.field for m in specs})
            read = [kinds.of(m).read(m, example, None, None) for m in specs]
            found += [] if None in read else [[ids[0] for ids in read]]
        return np.asarray(found, np.int64).reshape(-1, 3)

    def run(self, params):
        asked, true, every = self.triples(self.splits), self.triples(self.known), {"MRR": []}
        relations = self._objective.relations if self._objective.inverse else 0
        for name, turn in (("tail", lambda x: x), ("head", lambda x: inverse(x, relations)))[: 1 + bool(relations)]:
            rank, candidates = self.ranks(params, turn(asked), turn(true))
            for metric, value in self.metrics(rank, candidates):
                yield f"{name}/{metric}", value
                every.setdefault(metric, []).append(value)
        for metric, values in every.items():
            yield metric, Score(np.mean(values), np.mean([value.chance for value in values]))
        yield "triples", float(len(asked))

    def metrics(self, rank, candidates):
        chances = {n: reciprocal_rank_chance(n) for n in np.unique(candidates)}
        yield "MRR", Score((1 / rank).mean(), np.mean([chances[n] for n in candidates]))
        for k in self.at:
            yield f"Hits@{k}", Score((rank <= k).mean(), np.minimum(k / candidates, 1).mean())

    def ranks(self, params, asked, true):
        """(rank of the tail of every triple asked, 1 the best; how many candidates it was among), both `[n]`."""
        others, score = collections.defaultdict(list), self._scores(params)
        for h, r, t in true.tolist():
            others[h, r].append(t)
        ranks, candidates = [], []
        for start in range(0, len(asked), self.batch_size):
            rows = asked[start : start + self.batch_size]
            found = score(rows)
            for (h, r, t), values in zip(rows.tolist(), found):
                out = {*others[h, r], *([h] if self.drop_head else [])} - {t}
                own, values = values[t], np.delete(values, [*out, t])
                ranks.append(1 + int((values >= own).sum()))
                candidates.append(1 + len(values))
        return np.asarray(ranks), np.asarray(candidates)

    def _scores(self, params):
        """triples `[n, 3]` → φ of all entities `[n, E]`, computed in chunks of them."""
        one, own = self._objective, params["objective"][self.objective]
        graph = self.context.graph
        nodes = {key: node for key, node in one.passes(False).items() if key[0] == "view"}
        table = jax.jit(lambda p: one.table(own, compute(nnx.merge(graph, p), nodes, {})))(params["model"])
        score = jax.jit(one.scores)
        chunks = np.split(np.arange(len(table)), range(self.chunk, len(table), self.chunk))

        def run(rows):
            padded = np.concatenate([rows, np.repeat(rows[:1], self.batch_size - len(rows), 0)])
            found = [score(own, table, padded[:, 0], padded[:, 1], among) for among in chunks]
            return np.concatenate([np.asarray(x) for x in found], 1)[: len(rows)]

        return run


def inverse(triples, relations: int):
    """Tail, a further relation, head."""
    h, r, t = triples.T
    return np.stack([t, r + relations, h], 1)
