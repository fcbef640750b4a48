"""The experiment on what is missing: its data, its measure, and that all of its conditions run."""

import numpy as np
import pytest

from tools.experiments import missing


def test_auc_is_how_often_a_positive_scores_above_a_negative():
    rng = np.random.default_rng(0)
    y, scores = rng.integers(2, size=60), rng.integers(5, size=60).astype(float)
    a, b = scores[y == 1][:, None], scores[y == 0]
    assert missing.auc(scores, y) == pytest.approx(((a > b) + 0.5 * (a == b)).mean())
    assert missing.auc(np.zeros(60), y) == 0.5


def test_simulated_data_reach_the_ceilings_and_lack_what_they_should():
    rng = np.random.default_rng(0)
    data = missing.examples(rng, 40_000)
    y, x = data["label"]["ids"][:, 0, 0], {n: data[n]["vectors"][:, 0, 0].sum(1) for n in missing.NAMES}
    assert missing.auc(x["a"], y) == pytest.approx(missing.ceiling(1), abs=0.01)
    assert missing.auc(x["a"] + x["b"], y) == pytest.approx(missing.ceiling(2), abs=0.01)
    given = missing.lacking(data, "b", missing.at_random(data, True, rng))["b"]["valid"][:, 0, 0]
    assert given[y == 0].all() and given[y == 1].mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.slow
def test_every_condition_runs():
    results = missing.measure(steps=2, batch=8, size=16, held_out=32, seeds=1)
    assert set(results) == set(missing.CONDITIONS)
    assert all(np.isfinite(list(run.values())).all() for runs in results.values() for run in runs)
    assert {m for gate in missing.GATES for m in (gate.metric,)} <= set(results["dropout .5"][0])
