"""Linear encoding models: how well features predict responses, site by site, and which of several predict best."""

import numpy as np
from scipy import stats

ALPHAS = tuple(10.0**k for k in range(-1, 6))


def encode(x, responses, folds: int, alphas=ALPHAS) -> tuple[np.ndarray, np.ndarray]:
    """(what ridge regression predicts of held-out stimuli, what they evoke), both `[m, sites]`.

    x `[n, D]`, responses `[n, sites]`. Folds are contiguous: neighbours in time are not told apart. Of each fold the
    first half chooses α, for every site its own, by Pearson's r; the second half is predicted. Features and responses
    are standardised by the training folds (arXiv 2406.14481, section 3; its release). What is returned is standardised
    within each fold, so that r of all is the mean of the folds' r: how much α shrinks a fold's predictions is no error.
    """
    predicted, wanted = [], []
    for fold in np.array_split(np.arange(len(x)), folds):
        rest = np.setdiff1d(np.arange(len(x)), fold)
        choosing, scored = np.array_split(fold, 2)
        mean, scale = x[rest].mean(0), _scale(x[rest])
        offset = responses[rest].mean(0)
        left, values, right = np.linalg.svd((x[rest] - mean) / scale, full_matrices=False)
        projected = left.T @ (responses[rest] - offset)
        guesses = [
            ((x[fold] - mean) / scale) @ right.T @ (projected * (values / (values**2 + alpha))[:, None]) + offset
            for alpha in alphas
        ]
        first = [pearson(g[: len(choosing)], responses[choosing]) for g in guesses]
        best = np.argmax(first, axis=0)
        chosen = np.stack(guesses)[best, len(choosing) :, np.arange(responses.shape[1])].T
        predicted.append(_standard(chosen))
        wanted.append(_standard(responses[scored]))
    return np.concatenate(predicted), np.concatenate(wanted)


def pearson(a, b, weights=None) -> np.ndarray:
    """Pearson's r of every column of a and b `[m, sites]`, 0 where one is constant.

    weights `[draws, m]`: how often each row counts, → `[draws, sites]`.
    """
    w = np.ones((1, len(a))) if weights is None else weights
    total = w.sum(1, keepdims=True)
    # About the plain means, so that nothing is lost where they are large.
    a, b = a - a.mean(0), b - b.mean(0)
    mean_a, mean_b = w @ a / total, w @ b / total
    cross = w @ (a * b) / total - mean_a * mean_b
    scale = np.sqrt(np.maximum(w @ (a * a) / total - mean_a**2, 0) * np.maximum(w @ (b * b) / total - mean_b**2, 0))
    r = np.where(scale > 1e-12, cross / np.maximum(scale, 1e-12), 0.0)
    return r[0] if weights is None else r


def best_of(predictions: dict, wanted, own: str, draws: int, level: float, seed: int = 0) -> np.ndarray:
    """The sites `[sites]` that `own` predicts better than every other, as bool.

    predictions: {name: `[m, sites]`}; wanted `[m, sites]`. Stimuli are drawn again `draws` times: p is how often `own`
    is not above another, the largest over the others; the false discovery rate over sites is held at `level`
    (Benjamini and Hochberg, 1995).
    """
    rng, m = np.random.default_rng(seed), len(wanted)
    weights = rng.multinomial(m, np.full(m, 1 / m), size=draws).astype(np.float64)
    r = {name: pearson(guess, wanted, weights) for name, guess in predictions.items()}
    p = np.max([(1 + (r[own] <= r[name]).sum(0)) / (1 + draws) for name in r if name != own], axis=0)
    return stats.false_discovery_control(p) <= level


def _standard(x):
    return (x - x.mean(0)) / _scale(x)


def _scale(x):
    scale = x.std(0)
    return np.where(scale > 1e-6, scale, 1.0)
