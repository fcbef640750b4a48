"""The numbers of the transfer tasks, on NumPy arrays. Each names the paper that it is from."""

import numpy as np
from scipy import stats

from data_pipeline.image import NO_LABEL
from pretrain.evals.features import unit

CHUNK = 4096  # examples at most where a measure compares all pairs: [n, n] of them are 128 MiB


def ranks(similarity):
    """similarity `[n, n]`, partners on the diagonal → the rank of each row's partner `[n]`, 1 the best.

    Ties count against the partner: collapsed features must not look good.
    """
    return (similarity >= np.diagonal(similarity)[:, None]).sum(1)


def recall(similarity, k: int) -> float:
    """R@k: how often the partner is among the k most similar."""
    return float((ranks(similarity) <= k).mean())


def reciprocal_rank(similarity) -> float:
    """MRR: the mean of 1 / rank of the partner (Voorhees, TREC-8 Question Answering Track Report, 1999)."""
    return float((1 / ranks(similarity)).mean())


def reciprocal_rank_chance(n: int) -> float:
    """MRR of a random order of n candidates, H_n / n."""
    return float((1 / np.arange(1, n + 1)).mean())


def average_precision(similarity, relevant) -> float:
    """mAP: the mean over queries of the mean precision at the ranks of the relevant items.

    similarity, relevant `[m, n]` (Manning et al., Introduction to Information Retrieval, section 8.4). Queries without
    a relevant item do not count; ties count against the relevant.
    """
    order = np.lexsort((relevant, -similarity), axis=1)
    hits = np.take_along_axis(relevant, order, 1)
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    count = hits.sum(1)
    return float(((precision * hits).sum(1)[count > 0] / count[count > 0]).mean())


def average_precision_chance(relevant) -> float:
    """The expected mAP of random orders: with R of n relevant, (H_n + (R − 1)(n − H_n) / (n − 1)) / n a query.

    An item that is relevant stands at rank i with probability 1/n; of the i − 1 before it (R − 1)/(n − 1) are relevant.
    """
    n, count = relevant.shape[1], relevant.sum(1)
    harmonic = (1 / np.arange(1, n + 1)).sum()
    expected = (harmonic + (count - 1) * (n - harmonic) / max(n - 1, 1)) / n
    return float(expected[count > 0].mean())


def spearman(a, b) -> float:
    """Spearman's rank correlation, mid-ranks for ties; 0 where one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)


def auroc(score, positive) -> float:
    """How often one that is positive scores above one that is not, a tie half (Hanley & McNeil, Radiology 1982).

    score, positive `[n]`. ValueError if all are of one class.
    """
    positive = np.asarray(positive, bool)
    n, others = int(positive.sum()), int((~positive).sum())
    if not n or not others:
        raise ValueError(f"AUROC of {n} positive and {others} other examples: needs both")
    return float((stats.rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * others))


def auroc_interval(score, positive, draws: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """(lower, upper): the middle share `level` of the AUROC of examples that are drawn anew, each class for itself
    (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3)."""
    rng, score, positive = np.random.default_rng(seed), np.asarray(score), np.asarray(positive, bool)
    yes, no = score[positive], score[~positive]
    labels = np.repeat([True, False], [len(yes), len(no)])
    drawn = [auroc(np.concatenate([rng.choice(x, len(x)) for x in (yes, no)]), labels) for _ in range(draws)]
    lower, upper = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def confusion(truth, guess, classes: int) -> np.ndarray:
    """How many pixels of a class (row) are taken for another (column), `[classes, classes]`; those whose truth is 255,
    which says nothing, do not count."""
    known = truth != NO_LABEL
    pairs = truth[known].astype(int) * classes + guess[known].astype(int)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(table) -> np.ndarray:
    """Intersection over union of each class `[classes]` by a `confusion`, 0 of one that is nowhere (PASCAL VOC; arXiv
    1411.4038)."""
    both = np.diagonal(table)
    return both / np.maximum(table.sum(0) + table.sum(1) - both, 1)


def modality_gap(a, b) -> float:
    """‖mean a − mean b‖ of embeddings of unit length `[n, D]` (arXiv 2203.02053, section 4.2); 0 … 2."""
    return float(np.linalg.norm(unit(a).mean(0) - unit(b).mean(0)))


def alignment(a, b) -> float:
    """Mean ‖a − b‖² of partners of unit length (arXiv 2005.10242, section 4.1, α = 2); lower is better."""
    return float(np.square(unit(a) - unit(b)).sum(1).mean())


def uniformity(x) -> float:
    """log mean exp(−2 ‖x_i − x_j‖²) over pairs (arXiv 2005.10242, section 4.1, t = 2); lower is more uniform."""
    x = unit(x[:CHUNK].astype(np.float64))
    upper = np.triu_indices(len(x), 1)
    return float(np.log(np.exp(-2 * (2 - 2 * (x @ x.T)[upper])).mean()))


def effective_rank(x) -> float:
    """exp of the entropy of the singular values of the centred features, 1 … D (Roy & Vetterli, EUSIPCO 2007)."""
    values = np.linalg.svd(x[:CHUNK] - x[:CHUNK].mean(0), compute_uv=False).astype(np.float64)
    p = values[values > 0] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0


def cka(a, b) -> float:
    """Linear centred kernel alignment of features of the same n ≥ 4 examples (arXiv 1905.00414, section 3).

    With the unbiased estimate of HSIC (Song et al., JMLR 2012, equation 5; arXiv 2010.15327, section 2.2): the plain
    one is large for any features wider than n. Unrelated features give 0 on average.
    """
    a, b = (x[:CHUNK].astype(np.float64) for x in (a, b))
    a, b = ((x - x.mean(0)) @ (x - x.mean(0)).T for x in (a, b))
    scale = np.sqrt(max(_hsic(a, a) * _hsic(b, b), 0.0))
    return float(_hsic(a, b) / scale) if scale > 0 else 0.0


def _hsic(k, m) -> float:
    n = len(k)
    k, m = k.copy(), m.copy()
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    total = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)
    return total / (n * (n - 3))


def mutual_knn(a, b, k: int = 10) -> float:
    """How many of the k nearest examples by cosine both agree on, as a share (arXiv 2405.07987, section 2).

    Unrelated features agree on k / (n − 1).
    """
    near = []
    for x in (a, b):
        x = unit(x[:CHUNK])
        similarity = x @ x.T
        np.fill_diagonal(similarity, -np.inf)
        near.append(np.argpartition(-similarity, k - 1, axis=1)[:, :k])
    return float(np.mean([len(np.intersect1d(p, q)) for p, q in zip(*near)]) / k)


def representational_similarity(x, reference) -> float:
    """Spearman between the cosines of all pairs of examples and a given similarity `[n, n]` (Kriegeskorte 2008)."""
    x = unit(x[:CHUNK])
    upper = np.triu_indices(len(x), 1)
    return spearman((x @ x.T)[upper], reference[:CHUNK, :CHUNK][upper])


def permutation_p(x, reference, permutations: int, seed: int = 0) -> float:
    """How often examples in a random order are at least as similar to the reference, with the true order as one.

    Examples are permuted, not pairs: pairs that share an example are not independent.
    """
    rng, x = np.random.default_rng(seed), unit(x[:CHUNK])
    upper = np.triu_indices(len(x), 1)
    own, given = (np.zeros((len(x), len(x))) for _ in range(2))
    for matrix, values in ((own, x @ x.T), (given, reference[:CHUNK, :CHUNK])):
        ranks = stats.rankdata(values[upper])
        matrix[upper] = ranks - ranks.mean()
        matrix += matrix.T
    orders = (rng.permutation(len(x)) for _ in range(permutations))
    found, wanted = [(own * given[np.ix_(o, o)]).sum() for o in orders], (own * given).sum()
    return float((1 + np.sum(np.asarray(found) >= wanted * (1 - 1e-12))) / (1 + permutations))


def noise_ceiling(raters) -> tuple[float, float]:
    """(lower, upper): the mean Spearman of a rater with the mean of the others, and with the mean of all.

    raters: similarities `[raters, n, n]`. No model can be expected to agree with a rater more than the upper one (Nili
    et al., PLOS Computational Biology 2014).
    """
    upper = np.triu_indices(raters.shape[1], 1)
    pairs = np.stack([r[upper] for r in raters]).astype(np.float64)
    total = pairs.sum(0)
    return (
        float(np.mean([spearman(r, total - r) for r in pairs])),
        float(np.mean([spearman(r, total) for r in pairs])),
    )


def continual(matrix) -> dict[str, float]:
    """What a run in phases has at its end. matrix `[phases, domains]`: a score on every domain after every phase, the
    higher the better, domains in the order in which they are learned.

    average: over domains; newest: on the last; forgetting: how far the others have fallen from the best that they were
    after any phase before (Chaudhry et al., arXiv 1801.10112, section 4), below 0 where they have risen. ValueError if
    it is not square, or of one phase.
    """
    matrix = np.asarray(matrix, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"matrix {matrix.shape}: give two phases or more, and as many domains")
    last, best = matrix[-1], matrix[:-1, :-1].max(0)
    return {
        "average": float(last.mean()), "newest": float(last[-1]), "forgetting": float((best - last[:-1]).mean())
    }  # fmt: skip


def modality_importance(accuracy: dict) -> dict[str, float]:
    """{modality: mean accuracy of the subsets that hold it − that of those that do not} (arXiv 2408.12763, section 3).

    accuracy: {subset, a tuple of modalities: accuracy of an item, or the mean of several}. Without the empty subset
    a task that either of two modalities answers gives (0, 0), one that needs both (½, ½), one that the first answers
    (1, −½); with it the first two give (½, ½) alike, and the last (1, 0).
    """
    names = dict.fromkeys(name for subset in accuracy for name in subset)
    mean = lambda name, held: float(np.mean([a for subset, a in accuracy.items() if (name in subset) == held]))
    return {name: mean(name, True) - mean(name, False) for name in names}
