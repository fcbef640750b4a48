"""Retrieval recall and the k-NN vote against brute force, one query at a time."""

import numpy as np
import pytest

from pretrain.evals.knn import vote
from pretrain.evals.retrieval import _rows_of, _unit, recall


def brute_recall(similarity, k):
    hits = 0
    for i, row in enumerate(similarity):
        better = sum(1 for j, s in enumerate(row) if j != i and s >= row[i])
        hits += better < k
    return hits / len(similarity)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("ties", [False, True], ids=["real", "ties"])
def test_recall(k, ties):
    similarity = np.random.default_rng(k).normal(size=(20, 20)) + 0.7 * np.eye(20)
    if ties:
        similarity = np.round(similarity)
    assert recall(similarity, k) == pytest.approx(brute_recall(similarity, k))
    assert 0 < recall(similarity, 10) < 1


def test_recall_of_perfect_collapsed_and_wrong_features():
    assert recall(np.eye(5), 1) == 1
    assert recall(np.ones((5, 5)), 1) == 0, "collapsed features must not look good"
    assert recall(np.ones((5, 5)), 5) == 1
    assert recall(np.roll(np.eye(5), 1, axis=1), 1) == 0


def test_rows_are_matched_by_number():
    feature = {"row": np.asarray([7, 3, 5]), "z": np.asarray([[7.0], [3.0], [5.0]])}
    assert _rows_of(feature, [3, 7]).tolist() == [[3.0], [7.0]]
    assert np.linalg.norm(_unit(np.random.default_rng(0).normal(size=(4, 3))), axis=1) == pytest.approx(1)
    assert np.isfinite(_unit(np.zeros((1, 3)))).all()


def brute_vote(bank, labels, queries, k, temperature):
    centre = bank.mean(0)
    out = []
    for q in queries - centre:
        similarity = [float(q @ b / np.linalg.norm(q) / np.linalg.norm(b)) for b in bank - centre]
        votes = dict.fromkeys(sorted(set(labels)), 0.0)
        for j in sorted(range(len(bank)), key=lambda j: -similarity[j])[:k]:
            votes[labels[j]] += np.exp(similarity[j] / temperature)
        out.append(max(votes, key=votes.get))
    return out


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (5, 0.07), (20, 1.0), (100, 0.5)])
def test_vote(k, temperature):
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(60, 4)), rng.normal(size=(50, 4))
    labels = np.asarray(["ant", "bee", "cat"])[rng.integers(0, 3, 60)]
    got = vote(bank, labels, queries, k, temperature)
    assert got.tolist() == brute_vote(bank, labels.tolist(), queries, k, temperature)
    assert len(set(got)) > 1


def test_separable_features_are_classified_perfectly():
    rng = np.random.default_rng(0)
    centres, labels = 5 * np.eye(4), np.repeat([3, 1, 4, 9], 15)
    far = 100.0  # a direction that all share says nothing
    bank, queries = (np.repeat(centres, 15, 0) + 0.3 * rng.normal(size=(60, 4)) + far for _ in range(2))
    assert (vote(bank, labels, queries, 10, 0.07) == labels).all()
