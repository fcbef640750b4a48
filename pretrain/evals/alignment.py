"""Maps between two spaces of features learned from a few partners, the anchors: linear, in a subspace, or by kernels.

All on NumPy arrays `[n, D]`; what is learned is learned from anchors alone.
"""

from typing import NamedTuple

import numpy as np


class Subspace(NamedTuple):
    """A linear map into k directions: mean `[D]`, kernel `[D, k]`."""

    mean: np.ndarray
    kernel: np.ndarray

    def __call__(self, x):
        return (x - self.mean) @ self.kernel


def cca(a, b, k: int, ridge: float = 1e-3) -> tuple[Subspace, Subspace]:
    """The k pairs of directions in which anchors a `[n, D]` and b `[n, E]` correlate most (Hotelling, 1936).

    Directions have unit variance on the anchors, each weighed by its correlation. ridge: what is added to every
    variance, as a share of their mean: with fewer anchors than numbers there is no inverse without.
    ValueError if k exceeds what the anchors can tell.
    """
    most = min(len(a) - 1, a.shape[1], b.shape[1])
    if not 1 <= k <= most:
        raise ValueError(f"k={k} directions of {len(a)} anchors with {a.shape[1]} and {b.shape[1]} numbers: 1 … {most}")
    (mean_a, white_a, a), (mean_b, white_b, b) = (_whiten(x, ridge) for x in (a, b))
    left, values, right = np.linalg.svd(a.T @ b / (len(a) - 1), full_matrices=False)
    return (
        Subspace(mean_a, white_a @ left[:, :k] * values[:k] ** 0.5),
        Subspace(mean_b, white_b @ right[:k].T * values[:k] ** 0.5),
    )


def pca(x, k: int) -> Subspace:
    """The k directions of the largest variance."""
    mean = x.mean(0)
    return Subspace(mean, np.linalg.svd(x - mean, full_matrices=False)[2][:k].T)


def affine(a, b, ridge: float = 1e-3) -> Subspace:
    """The affine map of a that is nearest to b in the mean square; ridge as in `cca`. Its image is b less b's mean."""
    mean, a = a.mean(0), a - a.mean(0)
    gram = a.T @ a
    scale = ridge * max(np.trace(gram) / len(gram), 1e-30)
    return Subspace(mean, np.linalg.solve(gram + scale * np.eye(len(gram)), a.T @ (b - b.mean(0))))


def local_cka(a, b, anchors_a, anchors_b) -> np.ndarray:
    """How well each pair would fit among the anchors, `[m, n]` of queries a `[m, D]` and candidates b `[n, E]`.

    The linear CKA (biased, arXiv 1905.00414) of the anchors and the pair as one more (arXiv 2401.05224, section 3.2).
    """
    center = lambda x, anchors: ((x - anchors.mean(0)), (anchors - anchors.mean(0)))
    (a, anchors_a), (b, anchors_b) = center(a, anchors_a), center(b, anchors_b)
    k, m = _Bordered(a, anchors_a), _Bordered(b, anchors_b)
    return k.hsic(m) / np.sqrt(np.diagonal(k.hsic(k))[:, None] * np.diagonal(m.hsic(m))[None])


class _Bordered:
    """The linear kernel of N anchors and of one more example, for every such example."""

    def __init__(self, x, anchors):
        self.kernel, self.side = anchors @ anchors.T, x @ anchors.T  # [N, N], [n, N]
        self.own = (x * x).sum(1)  # [n]
        self.rows = self.kernel.sum(1)  # [N]
        self.last = self.side.sum(1) + self.own  # [n]: the sum of the new row
        self.total = self.kernel.sum() + self.side.sum(1) + self.last

    def hsic(self, other) -> np.ndarray:
        """tr(K H M H) `[n, m]` of all pairs of a kernel K of these and one M of `other`."""
        count = len(self.rows) + 1
        cross = self.side @ other.side.T
        product = (self.kernel * other.kernel).sum() + 2 * cross + np.outer(self.own, other.own)
        rows = self.rows @ other.rows + (other.side @ self.rows)[None] + (self.side @ other.rows)[:, None] + cross
        rows += np.outer(self.last, other.last)
        return product - 2 / count * rows + np.outer(self.total, other.total) / count**2


def _whiten(x, ridge):
    mean, x = x.mean(0), x - x.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x / (len(x) - 1))
    kernel = vectors / np.sqrt(np.maximum(values, 0) + ridge * max(values.mean(), 1e-30))
    return mean, kernel, x @ kernel
