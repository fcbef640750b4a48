"""Numbers that are not finite certify nothing: parameters of a model, and what two computations say."""

import jax
import numpy as np

from pretrain.sharding import path_str


def check_finite(params, where: str):
    """ValueError that names the first parameter that is not finite."""
    bad = [path_str(path) for path, x in jax.tree_util.tree_leaves_with_path(params) if not _finite(x)]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(
            f"{where}: {bad[0]}{more} hold numbers that are not finite: such a model says nothing; take a checkpoint "
            "of before it diverged (--step), or a whole copy"
        )


def furthest(a, b) -> float:
    """The largest |a − b|; infinite where something is not finite or nothing is compared."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    if not a.size or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max())


def _finite(x) -> bool:
    x = np.asarray(x)
    return x.dtype.kind not in "fV" or bool(np.isfinite(x.astype(np.float32)).all())
