"""Retrieval in one pool of candidates of all modalities and tasks: does a query find what it asks for, of its kind?"""

import dataclasses
import hashlib
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from pretrain import build
from pretrain.evals.base import Score, Task
from pretrain.models.parts.base import EMBEDDING
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Renamed, Whole


class Pool(NamedTuple):
    """Of n queries and m candidates, each candidate once: row, source `[n]` of the examples; queries `[n, E]`,
    candidates `[m, E]`; own `[n]`, the candidate that a query asks for; kind `[m]`, into kinds, the modalities that a
    candidate is of, such as "image+text"; first `[m]`, the row of the first example that asks for a candidate.
    """

    row: np.ndarray
    source: np.ndarray
    queries: np.ndarray
    candidates: np.ndarray
    own: np.ndarray
    kind: np.ndarray
    kinds: list[str]
    first: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """R@k among all that the examples of all sources ask for; the share of queries whose nearest candidate is of the
    kind that they ask for; and R@k among candidates of that kind alone, where a preference for one kind cannot be seen
    (MM-Embed, arXiv 2411.02571). Beside it R@1 in the whole pool by source.

    part: of the network, which embeds what modalities show together. variant: a query is a NAME, what it asks for
    NAME/VARIANT of the batch; equal ones are one candidate. A tie counts against what is asked for.
    """

    place = 0

    part: str = "project"
    variant: str = "positive"
    splits: tuple[str, ...] = ("val", "test")
    at: tuple[int, ...] = (1, 5)
    batch_size: int = 64

    def __post_init__(self):
        check(self.context, self.part, self.variant, self.where)
        if self.batch_size < 1 or not self.at or min(self.at) < 1:
            self.fail("batch_size" if self.batch_size < 1 else "at", "must be at least 1")

    def run(self, params):
        pool = search(self.context, params, self.part, self.variant, self.splits, self.batch_size)
        found, alike, kinds = ranks(pool)
        same = pool.kind[pool.own][:, None] == pool.kind
        yield "candidates", float(len(pool.kind))
        for k in self.at:
            yield f"R@{k}", Score((found <= k).mean(), min(k / len(pool.kind), 1))
        yield "kind", Score(kinds.mean(), same.mean())
        for k in self.at:
            yield f"own kind/R@{k}", Score((alike <= k).mean(), np.minimum(k / same.sum(1), 1).mean())
        names = [part.name or str(i) for i, part in enumerate(self.context.run.data.sources)]
        for i, name in enumerate(names if len(names) > 1 else ()):
            if (mine := pool.source == i).any():
                yield f"{name}/R@1", Score((found[mine] <= 1).mean(), 1 / len(pool.kind))


def ranks(pool: Pool):
    """Of every query: (the rank of what it asks for, 1 the best; that among its kind; whether its nearest is of it)."""
    out = []
    for z, own in zip(pool.queries, pool.own):
        s, same = pool.candidates @ z, pool.kind == pool.kind[own]
        other = s[~same].max(initial=-np.inf)
        out.append(((s >= s[own]).sum(), (s[same] >= s[own]).sum(), s[same].max() > other))
    return (np.asarray(x) for x in zip(*out))


def check(context, part: str, variant: str, where: str):
    """ValueError that names the key for a part that does not embed, or a variant that no transform writes."""
    network = context.network
    if network.need(part, f"{where}.part").gives != EMBEDDING or not network.joins(part):
        raise ValueError(f"{where}.part={part!r}: name a part that embeds modalities which are embedded apart")
    written = build.variants(context.run)
    for name in (f"{m}/{variant}" for m in network.read_by(part)):
        if name not in written:
            raise ValueError(
                f"{where}.variant={variant!r}: no transform writes {name!r}; written are {', '.join(written) or 'none'}"
            )


def search(context, params, part: str, variant: str, splits, batch_size: int = 64) -> Pool:
    """Embeds the queries of all examples of some splits, and what they ask for."""
    embed, names = _embedder(context, part, variant), context.network.read_by(part)
    seen, kinds, found = {}, {}, []
    rows, sources, own, queries, candidates, kind, first = found = [[] for _ in range(7)]
    for batch in context.batches(splits, batch_size):
        q, t = (np.asarray(z, np.float32) for z in jax.device_get(embed(params, batch)))
        for i in np.flatnonzero(batch["row"] >= 0):
            there = [n for n in names if np.any(batch[f"{n}/{variant}"]["valid"][i])]
            if not there or not any(np.any(batch[n]["valid"][i]) for n in names):
                continue
            key = _content(batch, [f"{n}/{variant}" for n in there], i)
            if key not in seen:
                seen[key] = len(candidates)
                candidates.append(t[i])
                kind.append(kinds.setdefault("+".join(there), len(kinds)))
                first.append(batch["row"][i])
            rows.append(batch["row"][i])
            sources.append(batch["source"][i] if "source" in batch else 0)
            own.append(seen[key])
            queries.append(q[i])
    if len(candidates) < 2:
        raise ValueError(f"mixed_pool: {len(candidates)} candidates in {splits}; retrieval needs at least two")
    row, source, own, queries, candidates, kind, first = map(np.asarray, found)
    return Pool(row, source, queries, candidates, own, kind, list(kinds), first)


def _content(batch, entries, i) -> str:
    """What an example holds in some entries: equal for the same content."""
    held = hashlib.sha256()
    for entry in entries:
        for field, value in sorted(batch[entry].items()):
            x, valid = np.asarray(value[i]), np.asarray(batch[entry]["valid"][i])
            x = np.where(valid, x, 0) if x.ndim and x.shape == valid.shape else x
            held.update(f"{entry} {field} {x.shape} ".encode() + np.ascontiguousarray(x).tobytes())
    return held.hexdigest()


def _embedder(context, part: str, variant: str):
    """jitted (params, batch) → embeddings `[B, E]` of queries and of what they ask for."""
    network = context.network
    shown = {m: Whole((m,), network.specs) for m in network.read_by(part)}
    leaves = [{m: Leaf(make) for m, make in shown.items()}]
    leaves.append({m: Leaf(Renamed(make, ((m, f"{m}/{variant}"),))) for m, make in shown.items()})
    nodes = {str(i): network.over(part, of) for i, of in enumerate(leaves)}

    @jax.jit
    def embed(params, batch):
        found = compute(nnx.merge(context.graph, params["model"]), nodes, batch)
        return found["0"], found["1"]

    return embed
