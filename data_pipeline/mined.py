"""Which candidates of a pool of several kinds are the hard negatives of a query (MM-Embed, arXiv 2411.02571)."""

import numpy as np


def hard_negatives(similarity, own, kind, *, wrong: int = 1, right: int = 1, top: int = 50, below: int = 45):
    """Of the `top` candidates that a model finds nearest to a query: those of another kind than what it asks for that
    lie nearer than that, and those of its kind behind the first `below`, which are hardly answers, too.

    Args:
      similarity: `[n, m]` of queries and candidates, each of which is there once.
      own: the candidate that a query asks for `[n]`.
      kind: of each candidate `[m]`, such as its modality.
      wrong, right: how many of either sort, the nearest first.

    Returns:
      int64[n, wrong + right], candidates, −1 where there are fewer.

    Raises:
      ValueError: none is asked for, or no place lies between `below` and `top`.
    """
    if min(wrong, right) < 0 or not wrong + right:
        raise ValueError(f"wrong={wrong}, right={right}: ask for one of either sort at least")
    if not 0 <= below < top:
        raise ValueError(f"below={below}, top={top}: must be 0 ≤ below < top")
    similarity, own, kind = np.asarray(similarity), np.asarray(own), np.asarray(kind)
    out = np.full((len(own), wrong + right), -1, np.int64)
    for row, s, wanted in zip(out, similarity, own):
        order = np.argsort(-s, kind="stable")[:top]
        same = kind[order] == kind[wanted]
        confused = order[~same & (s[order] > s[wanted])][:wrong]
        far = order[below:]
        far = far[same[below:] & (far != wanted)][:right]
        row[: len(confused)] = confused
        row[wrong : wrong + len(far)] = far
    return out
