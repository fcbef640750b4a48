"""Which of the texts on a class say what one of its pictures shows (GIST, arXiv 2307.11315)."""

import numpy as np


def match(similarity, wanted, given, k: int) -> np.ndarray:
    """The k texts of an example's own class that are most like it, the likest first.

    Args:
      similarity: `[n, m]` of examples and texts.
      wanted: the class of each example `[n]`.
      given: the class that each text is on `[m]`.
      k: how many.

    Returns:
      int64[n, k], numbers of texts; of equal ones the first.

    Raises:
      ValueError: a class of an example has fewer texts, or k < 1.
    """
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    similarity, wanted, given = (np.asarray(x) for x in (similarity, wanted, given))
    names, counts = np.unique(given, return_counts=True)
    texts = dict(zip(names.tolist(), counts.tolist()))
    for name in np.unique(wanted).tolist():
        if texts.get(name, 0) < k:
            raise ValueError(f"k={k}: class {name!r} has {texts.get(name, 0)} texts: write more, or take fewer")
    own = np.where(wanted[:, None] == given, similarity, -np.inf)
    return np.argsort(-own, axis=1, kind="stable")[:, :k]
