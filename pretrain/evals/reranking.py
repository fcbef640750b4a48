"""Two-stage retrieval: the nearest by cosine, of which a matching head keeps those that it finds relevant.

As many as are, up to k, as context for what generates (arXiv 2501.04695).
"""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx

from pretrain.evals.base import Score, Task, Unfit
from pretrain.evals.knn import held_out
from pretrain.evals.metrics import auroc, auroc_interval
from pretrain.models.passes import compute
from pretrain.objectives import sampled_matching

CHUNK = 512  # pairs at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Of each query the `first` nearest by cosine; of these at most `most`, in the order of a score, that reach a
    threshold: by the probability that the matching head gives (`match`), and as a control by the cosine itself. Each
    threshold is the highest that kept `recall` of what is relevant among the first on the split `validation`.

    Of what is kept: `precision`; `recall`, of what is relevant among the first; and how many a query (`kept`). `fixed`:
    of `most` each, without a threshold. `cosine/at that recall`: with that threshold on these very examples at which it
    has the recall of `match`, since precision rises by itself where less is kept. AUROC: of scores among the first.

    objective: the `sampled_matching` of the run; query: the end of its edge that asks, "" for b. relevant: a field of
    the examples, what has the query's value is relevant; "" for the own partner alone.
    """

    place = 25

    objective: str = ""
    query: str = ""
    relevant: str = ""
    first: int = 20
    most: int = 5
    recall: float = 0.9
    validation: str = "val"
    splits: tuple[str, ...] = ("test",)
    batch_size: int = 64

    def __post_init__(self):
        known = _known(self.context)
        if (self.objective or next(iter(known), "")) not in known:
            self.fail("objective", f"no sampled_matching of the run, which has {', '.join(known) or 'none'}")
        if self.query and self.query not in self._ends:
            self.fail("query", f"must be an end of the edge, {' or '.join(self._ends)}")
        if not 1 <= self.most <= self.first or self.batch_size < 1:
            self.fail(
                "most", f"first={self.first}, batch_size={self.batch_size}: must be at least 1, and most <= first"
            )
        if not 0 < self.recall <= 1:
            self.fail("recall", "must be above 0 and at most 1")
        if self.validation in self.splits:
            self.fail("validation", f"splits={self.splits} holds it: a threshold is chosen on other examples")

    @staticmethod
    def default(context) -> dict:
        if not _known(context):
            raise Unfit("no objective of the run matches pairs (sampled_matching)")
        if len(splits := held_out(context)) < 2:
            raise Unfit("needs two splits beside training: val, to choose a threshold, and test")
        return dict(validation=splits[0], splits=splits[1:])

    def check(self):
        for key in ("validation", "splits"):
            of = getattr(self, key)
            if (n := len(self.context.source(of))) <= self.first:
                self.fail("first", f"{n} examples in {of}: take fewer than all, or another split")
            if self.relevant:
                self.context.column(self.relevant, of, f"{self.where}.relevant")

    def run(self, params):
        known, found = (self._ranked(params, splits) for splits in (self.validation, self.splits))
        n, relevant = len(found["relevant"]), found["relevant"]
        yield "queries", float(n)
        yield "first/recall", Score(relevant.sum() / found["all"], self.first / n)
        for name in ("match", "cosine"):
            least = threshold(known[name], known["relevant"], self.most, self.recall)
            yield from self._judged(name, keep(found[name], least, self.most), relevant)
            yield from self._judged(f"{name}/fixed", keep(found[name], -np.inf, self.most), relevant)
            if relevant.any() and not relevant.all():
                yield f"{name}/AUROC", Score(auroc(found[name].ravel(), relevant.ravel()), 0.5)
                for side, limit in zip(("lower", "upper"), auroc_interval(found[name].ravel(), relevant.ravel())):
                    yield f"{name}/AUROC, {side} limit", limit
        least = threshold(known["match"], known["relevant"], self.most, self.recall)
        same = (keep(found["match"], least, self.most) & relevant).sum() / max(relevant.sum(), 1)
        least = threshold(found["cosine"], relevant, self.first, same)
        yield from self._judged("cosine/at that recall", keep(found["cosine"], least, self.first), relevant)

    def _judged(self, name: str, kept, relevant):
        """Of what is kept, bool `[n, first]`: precision, recall, and how many of a query."""
        right = (kept & relevant).sum()
        yield f"{name}/precision", Score(right / max(kept.sum(), 1), relevant.mean())
        yield f"{name}/recall", float(right / max(relevant.sum(), 1))
        yield f"{name}/kept", float(kept.sum(1).mean())

    def _ranked(self, params, splits) -> dict:
        """What of each query's first is `relevant`, their `cosine` and what the head gives (`match`) `[n, first]`,
        their place `near` among the examples `row`, and of `all` how many are relevant."""
        one, apart, parts = self._one, self._apart, []
        for batch in self.context.batches(splits, self.batch_size):
            out = jax.device_get(apart(params, batch))
            there = np.logical_and.reduce([*one.present(out).values(), batch["row"] >= 0])
            kept = {key: x for key, x in out.items() if key[0] != "shown"}
            parts.append(jax.tree.map(lambda x, there=there: x[there], {"out": kept, "row": batch["row"]}))
        every = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        asks, asked = self._ends if self.query == self._ends[0] else self._ends[::-1]
        cosine = every["out"]["z", asks] @ every["out"]["z", asked].T
        if len(cosine) <= self.first:
            self.fail("first", f"{len(cosine)} examples of {splits} have both sides: take fewer than all")
        near = np.argsort(-cosine, axis=1, kind="stable")[:, : self.first]
        queries = np.arange(len(near)).repeat(self.first)
        rows = (queries, near.ravel()) if asks == self._ends[0] else (near.ravel(), queries)
        match = [
            self._match(params, every["out"], tuple(r[i : i + CHUNK] for r in rows))
            for i in range(0, len(queries), CHUNK)
        ]
        relevant = self._relevant(every["row"], splits)
        return dict(
            relevant=np.take_along_axis(relevant, near, 1), cosine=np.take_along_axis(cosine, near, 1),
            match=np.concatenate(match).reshape(near.shape), near=near, row=every["row"], all=relevant.sum(),
        )  # fmt: skip

    def _match(self, params, out, rows) -> np.ndarray:
        """The probability that pairs match, of the sides that `rows` name of what `_apart` gave."""
        sides = {
            key: jax.tree.map(lambda x, side=key[1]: x[rows[side]], x) for key, x in out.items() if key[0] == "side"
        }
        n = len(rows[0])
        fill = lambda x: np.concatenate([x, np.repeat(x[:1], CHUNK - n, 0)])
        return np.asarray(self._head(params, jax.tree.map(fill, sides)))[:n]

    @functools.cached_property
    def _apart(self):
        nodes = self._one.apart()
        return jax.jit(lambda params, batch: compute(nnx.merge(self.context.graph, params["model"]), nodes, batch))

    @functools.cached_property
    def _head(self):
        own = np.arange(CHUNK)

        def head(params, sides):
            network = nnx.merge(self.context.graph, params["model"])
            return jax.nn.softmax(self._one.matched(sides, (own, own), functools.partial(network.run)))[:, 1]

        return jax.jit(head)

    def _relevant(self, row, splits) -> np.ndarray:
        if not self.relevant:
            return np.eye(len(row), dtype=bool)
        column = self.context.column(self.relevant, splits, f"{self.where}.relevant")
        values = np.asarray([str(column[r]) for r in row.tolist()])
        return values[:, None] == values

    @property
    def _one(self) -> sampled_matching.Objective:
        known = _known(self.context)
        return known[self.objective or next(iter(known))]

    @property
    def _ends(self) -> tuple[str, str]:
        edge = self._one.edges[0]
        return edge.a, edge.b

    def figures(self, params, images):
        """What is kept of some queries, in the order of the head, the relevant framed, where they are pictures."""
        asks, asked = self._ends if self.query == self._ends[0] else self._ends[::-1]
        if not images.has(asked) or asks not in images.modalities:
            return
        found = self._ranked(params, self.splits)
        order = np.take_along_axis(found["near"], np.argsort(-found["match"], axis=1, kind="stable"), 1)
        chosen = np.linspace(0, len(order) - 1, min(6, len(order))).round().astype(int)
        near = found["row"][order[chosen][:, :5]]
        yield (
            f"{asks} → {asked}, first by the head",
            images.nearest(asks, asked, found["row"][chosen], near, self.splits),
        )


def _known(context) -> dict:
    return {n: o for n, o in context.objectives.items() if isinstance(o, sampled_matching.Objective)}


def keep(score, least: float, most: int) -> np.ndarray:
    """score `[n, N]` → which reach the least and are of the `most` highest of their row, bool `[n, N]`."""
    place = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1)
    return (score >= least) & (place < most)


def threshold(score, relevant, most: int, recall: float) -> float:
    """The highest with which `keep` keeps a share `recall` of what is relevant; if none does, that which keeps most."""
    reached = np.sort(score[relevant & keep(score, -np.inf, most)])[::-1]
    needed = int(np.ceil(recall * relevant.sum() - 1e-9))
    return float(reached[min(max(needed, 1), len(reached)) - 1]) if len(reached) else np.inf
