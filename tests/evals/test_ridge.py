"""Encoding models against normal equations, and which simulated sites are told to integrate."""

import numpy as np
import pytest
from scipy import stats

from pretrain.evals import ridge


def test_predictions_are_those_of_normal_equations_fold_by_fold():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(41, 6)) * [1, 5, 1, 1, 0, 2] + 3, rng.normal(size=(41, 3)) + 7
    y[:, 0] += x[:, 1]
    predicted, wanted = ridge.encode(x, y, 3, (0.1, 10.0, 1e4))
    at, seen = 0, set()
    for fold in np.array_split(np.arange(41), 3):
        rest = [i for i in range(41) if i not in fold]
        scale = np.where(x[rest].std(0) > 1e-6, x[rest].std(0), 1)
        z, zt = (x[fold] - x[rest].mean(0)) / scale, (x[rest] - x[rest].mean(0)) / scale
        half = -(-len(fold) // 2)
        for site in range(3):
            best = None
            for alpha in (0.1, 10.0, 1e4):
                w = np.linalg.solve(zt.T @ zt + alpha * np.eye(6), zt.T @ (y[rest, site] - y[rest, site].mean()))
                r = stats.pearsonr(z[:half] @ w, y[fold[:half], site]).statistic
                if best is None or r > best[0] + 1e-12:
                    best = r, z[half:] @ w, alpha
            seen.add(best[2])
            mine = predicted[at : at + len(fold) - half, site]
            np.testing.assert_allclose(mine, stats.zscore(best[1]), rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(
                wanted[at : at + len(fold) - half, site], stats.zscore(y[fold[half:], site]), rtol=1e-9
            )
        at += len(fold) - half
    assert at == len(predicted) and len(seen) > 1, "α differs by site"


def test_weighted_correlations_are_those_of_repeated_rows():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 30, 4)) + 100
    b[:, 3] = 5
    np.testing.assert_allclose(
        ridge.pearson(a, b)[:3], [stats.pearsonr(a[:, i], b[:, i]).statistic for i in range(3)], rtol=1e-9
    )
    assert ridge.pearson(a, b)[3] == 0, "of what never changes"
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=5).astype(float)
    rows = [np.repeat(np.arange(30), w.astype(int)) for w in weights]
    wanted = [[stats.pearsonr(a[r, i], b[r, i]).statistic for i in range(3)] for r in rows]
    np.testing.assert_allclose(ridge.pearson(a, b, weights)[:, :3], wanted, rtol=1e-8)


def test_sites_that_add_up_are_not_told_to_integrate():
    rng = np.random.default_rng(2)
    n, sites = 360, 8
    v, t = rng.normal(size=(2, n, 6))
    product = (v[:, :, None] * t[:, None]).reshape(n, -1)[:, :12]
    both = np.concatenate([v, t, product], 1) @ rng.normal(size=(24, 24))
    standard = lambda x: (x - x.mean(0)) / x.std(0)
    signal = [x @ rng.normal(size=(x.shape[1], sites)) for x in (v, t, np.concatenate([v, t], 1), product)]
    responses = np.concatenate([standard(s) for s in signal], 1) + 0.7 * rng.normal(size=(n, 4 * sites))
    spaces = dict(both=both, vision=v, language=t, concatenation=np.concatenate([v, t], 1))
    predictions = {}
    for name, x in spaces.items():
        predictions[name], wanted = ridge.encode(x, responses, 9)
    flagged = ridge.best_of(predictions, wanted, "both", 400, 0.05).reshape(4, sites).mean(1)
    np.testing.assert_array_equal(flagged, [0, 0, 0, 1])
    without = {name: p for name, p in predictions.items() if name != "concatenation"}
    passed = ridge.best_of(without, wanted, "both", 400, 0.05).reshape(4, sites).mean(1)
    assert passed[2] > 0.5, "beside either alone, most sums pass"


@pytest.mark.parametrize("level, most", [(0.05, 0.2), (0.5, 1.0)])
def test_noise_is_seldom_found(level, most):
    rng = np.random.default_rng(3)
    wanted, guess, other = rng.normal(size=(3, 60, 40))
    found = ridge.best_of(dict(a=guess, b=other), wanted, "a", 200, level)
    assert found.mean() <= most
