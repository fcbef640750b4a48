"""Similarities between examples that are given, not learned: what representations are compared with."""

import collections

import numpy as np

from pretrain.evals.base import Context


def overlap_field(context: Context) -> str:
    """A field that says what an example is by several words: the one with the most different words, or ""."""
    facts = context.facts(context.held_out)
    fields = set.intersection(*(set(f) for f in facts.values()))
    words = {k: {w for f in facts.values() for w in f[k]} for k in fields if _all_lists(facts, k)}
    return max(sorted(words), key=lambda k: len(words[k]), default="")


def overlap(context: Context, field: str, rows, splits, key: str) -> np.ndarray:
    """Jaccard similarity of the word lists of a field, |A ∩ B| / |A ∪ B| `[n, n]`; 0 where both are empty."""
    column = context.column(field, splits, key)
    words = [set(column[r]) if isinstance(column[r], (list, tuple)) else {column[r]} for r in rows.tolist()]
    index = collections.defaultdict(lambda: len(index))
    known = [[index[w] for w in own] for own in words]
    has = np.zeros((len(words), len(index)), np.float32)
    for row, own in zip(has, known):
        row[own] = 1
    both = has @ has.T
    either = has.sum(1)[:, None] + has.sum(1) - both
    return both / np.maximum(either, 1)


def _all_lists(facts, field) -> bool:
    return all(isinstance(f[field], (list, tuple)) for f in facts.values())
