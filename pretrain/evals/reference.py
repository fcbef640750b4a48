"""Similarities between examples that are given, not learned: what representations are compared with."""

import collections
import zipfile

import numpy as np

from pretrain.evals.base import Context, Task
from pretrain.storage import locate


def overlap_field(context: Context) -> str:
    """A field that says what an example is by several words: the one with the most different words, or ""."""
    facts = context.facts(context.held_out)
    fields = set.intersection(*(set(f) for f in facts.values()))
    words = {k: {w for f in facts.values() for w in f[k]} for k in fields if _all_lists(facts, k)}
    return max(sorted(words), key=lambda k: len(words[k]), default="")


def overlap(context: Context, field: str, rows, splits, key: str) -> np.ndarray:
    """Jaccard similarity of the word lists of a field, |A ∩ B| / |A ∪ B| `[n, n]`; 0 where both are empty."""
    column = context.column(field, splits, key)
    return jaccard([set(column[r]) if isinstance(column[r], (list, tuple)) else {column[r]} for r in rows.tolist()])


def jaccard(sets) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of all pairs of sets `[n, n]`; 0 where both are empty."""
    index = collections.defaultdict(lambda: len(index))
    known = [[index[x] for x in own] for own in sets]
    has = np.zeros((len(sets), len(index)), np.float32)
    for row, own in zip(has, known):
        row[own] = 1
    both = has @ has.T
    either = has.sum(1)[:, None] + has.sum(1) - both
    return both / np.maximum(either, 1)


def arrays(task: Task, key: str, names: tuple[str, ...]) -> list[np.ndarray]:
    """The arrays of those names in the .npz that a key of the task gives. ValueError names the key."""
    remedy = f"give an .npz of the arrays {' and '.join(names)}"
    try:
        with locate(getattr(task, key)).open("rb") as file, np.load(file) as held:
            found = {name: held[name] for name in names if name in held.files}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as e:  # a lone array is no context manager
        task.fail(key, f"cannot be read ({e}): {remedy}")
    if missing := [name for name in names if name not in found]:
        task.fail(key, f"lacks {', '.join(missing)}: {remedy}")
    return list(found.values())


def _all_lists(facts, field) -> bool:
    return all(isinstance(f[field], (list, tuple)) for f in facts.values())
