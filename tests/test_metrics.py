"""What a log line says: means over the steps of its interval, and rates of training alone."""

import pytest

from pretrain import metrics
from pretrain.objectives.base import Term


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    return now


def step(loss, total, weight, skipped=0):
    return {"loss": loss, "terms": {"masked/a": Term(total, weight)}, "skipped_in_a_row": skipped}


def test_rates_count_neither_compilation_nor_evaluation(clock):
    rate = metrics.Rate(batch_size=8, tokens_per_example=10)
    clock[0] += 60  # compiling
    rate.add(step(1.0, 1.0, 1.0))
    for _ in range(4):
        clock[0] += 0.5
        rate.add(step(1.0, 1.0, 1.0))
    with rate.paused():
        clock[0] += 30
    found = rate.close()
    assert found["examples/s"] == pytest.approx(4 * 8 / 2.0) and found["tokens/s"] == pytest.approx(160)
    clock[0] += 1
    rate.add(step(1.0, 1.0, 1.0))
    assert rate.close()["examples/s"] == pytest.approx(8)


def test_the_first_step_alone_has_no_rate(clock):
    rate = metrics.Rate(8, 10)
    rate.add(step(2.0, 1.0, 1.0))
    assert "examples/s" not in rate.close()


def test_terms_are_means_over_all_that_was_predicted_and_skipped_steps_do_not_count():
    rate = metrics.Rate(8, 0)
    rate.add(step(1.0, 6.0, 2.0))
    rate.add(step(3.0, 1.0, 5.0))
    rate.add(step(float("nan"), float("nan"), 1.0, skipped=1))
    found = rate.close()
    assert found["loss"] == 2.0 and found["masked/a"] == 1.0
    assert "tokens/s" not in found and "examples/s" in found


def test_a_term_that_no_example_had_is_named():
    rate = metrics.Rate(8, 0)
    rate.add(step(1.0, 0.0, 0.0))
    assert "masked/a" not in rate.close() and rate.empty == ["masked/a"]
    rate.add(step(1.0, 1.0, 2.0))
    assert rate.close()["masked/a"] == 0.5 and rate.empty == []
