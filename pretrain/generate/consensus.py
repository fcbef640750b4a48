"""Several samples of one thing made into one: self-consistency (arXiv 2203.11171)."""

import numpy as np
from scipy import stats


def picture(samples, *, labels: bool):
    """Float `[S, B, H, W, C]` → `[B, H, W, C]`: the mean, as of 4M-21's depth and normals; of label maps the vote."""
    return stats.mode(samples, axis=0).mode if labels else np.mean(samples, axis=0)


def text(ids, valid):
    """Ids, bool `[S, B, L]` → the same `[B, L]`: of every example the sample that agrees best with the others.

    Two agree by the F1 of their tokens, 2 · (tokens in common) / (tokens of both), whatever their order; the first of
    those that agree equally is taken. Of short answers, such as a class, that is the one that was drawn most often.
    """
    ids, valid = np.asarray(ids), np.asarray(valid)
    counts = np.where(valid, 1, 0)
    vocabulary, at = np.unique(ids, return_inverse=True)
    bags = np.zeros((*ids.shape[:2], len(vocabulary)))
    np.add.at(bags, (*np.indices(ids.shape)[:2], at.reshape(ids.shape)), counts)
    common = np.minimum(bags[:, None], bags[None]).sum(-1)  # [S, S, B]
    lengths = bags.sum(-1)
    f1 = 2 * common / np.maximum(lengths[:, None] + lengths[None], 1)
    best, rows = f1.sum(1).argmax(0), np.arange(ids.shape[1])
    return ids[best, rows], valid[best, rows]
