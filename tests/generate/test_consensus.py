"""Samples made into one, against loops."""

import collections

import numpy as np

from pretrain.generate import consensus


def test_the_text_that_agrees_best():
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, 6, (5, 40, 7)), rng.integers(0, 8, (5, 40, 1))
    valid = np.arange(7) < lengths
    made, kept = consensus.text(ids, valid)
    bag = lambda s, b: collections.Counter(ids[s, b][valid[s, b]].tolist())
    for b in range(40):
        agreement = []
        for s in range(5):
            mine, total = bag(s, b), 0.0
            for other in range(5):
                theirs = bag(other, b)
                total += 2 * (mine & theirs).total() / max(mine.total() + theirs.total(), 1)
            agreement.append(total)
        # Two that agree equally but for rounding may change places.
        chosen = next(s for s in range(5) if (ids[s, b] == made[b]).all() and (valid[s, b] == kept[b]).all())
        np.testing.assert_allclose(agreement[chosen], max(agreement), rtol=1e-12)


def test_the_answer_that_is_drawn_most_often():
    answers = np.array([[3, 1], [4, 1], [4, 1], [5, 1]])[:, None]
    made, valid = consensus.text(answers, np.ones_like(answers, bool))
    np.testing.assert_array_equal(made, [[4, 1]])
    assert valid.all()


def test_pictures():
    samples = np.array([[1.0, 7], [2, 7], [2, 9]]).reshape(3, 1, 1, 2, 1)
    np.testing.assert_array_equal(consensus.picture(samples, labels=True).ravel(), [2, 7])
    np.testing.assert_allclose(consensus.picture(samples, labels=False).ravel(), [5 / 3, 23 / 3])
