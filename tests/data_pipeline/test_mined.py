"""Hard negatives of either sort, against loops; what is refused."""

import numpy as np
import pytest

from data_pipeline.mined import hard_negatives


def loops(s, own, kind, wrong, right, top, below):
    out = []
    for row, wanted in zip(s, own):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))[:top]
        confused = [j for j in order if kind[j] != kind[wanted] and row[j] > row[wanted]]
        far = [j for place, j in enumerate(order) if place >= below and kind[j] == kind[wanted] and j != wanted]
        pad = lambda numbers, n: [*numbers[:n], *[-1] * (n - len(numbers[:n]))]
        out.append(pad(confused, wrong) + pad(far, right))
    return out


@pytest.mark.parametrize("wrong, right, top, below", [(1, 1, 50, 45), (2, 3, 20, 10), (0, 2, 12, 0), (3, 0, 5, 4)])
def test_they_equal_loops(wrong, right, top, below):
    rng = np.random.default_rng(0)
    s, own, kind = rng.normal(size=(40, 60)), rng.integers(60, size=40), rng.integers(3, size=60)
    found = hard_negatives(s, own, kind, wrong=wrong, right=right, top=top, below=below)
    assert found.tolist() == loops(s, own, kind, wrong, right, top, below) and (found >= 0).any()
    there = found >= 0
    assert not (found == own[:, None]).any(), "what is asked for is never one"
    of = np.where(there, kind[found] == kind[own][:, None], False)
    assert not of[:, :wrong].any() and of[:, wrong:][there[:, wrong:]].all()


def test_what_is_found_at_once_has_none_of_another_kind():
    """Trap: candidates of a wrong kind behind the right answer are no mistakes."""
    s, kind = np.asarray([[0.9, 0.8, 0.7], [0.1, 0.8, 0.7]]), np.asarray([0, 1, 1])
    found = hard_negatives(s, [0, 0], kind, wrong=2, right=0, top=3, below=0)
    assert found.tolist() == [[-1, -1], [1, 2]]


def test_a_small_pool_has_nothing_far_behind():
    found = hard_negatives(np.random.default_rng(0).normal(size=(5, 8)), np.arange(5), np.zeros(8))
    assert (found == -1).all()


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(wrong=0, right=0), "wrong=0, right=0: ask for one"),
        (dict(wrong=-1), "wrong=-1"),
        (dict(top=10, below=10), "below=10, top=10: must be"),
    ],
)
def test_what_cannot_be_is_named(keys, message):
    with pytest.raises(ValueError, match=message):
        hard_negatives(np.ones((2, 3)), [0, 1], np.zeros(3), **keys)
