"""What a log line says: means over the steps of its interval, and rates of training alone."""

import numpy as np
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


def test_rates_leave_evaluation_out_and_say_where_the_time_went(clock):
    """Ten seconds of start, four steps of half a second, half of it waiting, one of saving, thirty of evaluation."""
    rate = metrics.Rate(batch_size=8, tokens_per_example=10, flops=100.0, peak=1000.0, started=clock[0] - 10)
    for _ in range(4):
        with rate.spending("data"):
            clock[0] += 0.25
        clock[0] += 0.25
        rate.add(step(1.0, 1.0, 1.0))
    with rate.spending("checkpoint"):
        clock[0] += 1
    with rate.spending("eval"):
        clock[0] += 30
    found = rate.close()
    assert found["examples/s"] == pytest.approx(4 * 8 / 3.0) and found["tokens/s"] == pytest.approx(320 / 3)
    assert found["time/step"] == pytest.approx(0.75) and found["time/mfu"] == pytest.approx(400 / 3 / 1000)
    assert found["time/data"] == pytest.approx(1 / 3) and found["time/checkpoint"] == pytest.approx(1 / 3)
    assert found["time/goodput"] == pytest.approx(1 / 43)
    clock[0] += 1
    rate.add(step(1.0, 1.0, 1.0))
    found = rate.close()
    assert found["examples/s"] == pytest.approx(8) and found["time/goodput"] == pytest.approx(2 / 44)


def test_a_host_that_waits_for_its_data_is_named(monkeypatch):
    def gather(mine):
        return np.stack([mine, mine, other(0.01), other(0.5, b"slowpoke")])

    def other(share, name=b"quick"):
        return np.concatenate([np.float32([share]).view(np.uint8), np.frombuffer(name.ljust(60), np.uint8)])

    monkeypatch.setattr(metrics.jax, "process_count", lambda: 4)
    monkeypatch.setattr(metrics.multihost_utils, "process_allgather", gather)
    assert metrics.slow_host(0.02) == "process 3 on slowpoke waits 50% of the time for its data, half of them 2%"
    assert metrics.slow_host(0.4) == "", "all wait: that is no slow host"


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
