"""Which texts of a class fit a picture."""

import numpy as np
import pytest

from data_pipeline.matched import match

RNG = np.random.default_rng(0)
SIMILARITY = RNG.normal(size=(9, 12))
WANTED = np.asarray(list("abcabcabc"))
GIVEN = np.asarray(list("abbcccaaabbc"))


def test_matches_equal_a_loop():
    found = match(SIMILARITY, WANTED, GIVEN, 3)
    for row, name, chosen in zip(SIMILARITY, WANTED, found):
        own = [i for i in range(12) if GIVEN[i] == name]
        assert chosen.tolist() == sorted(own, key=lambda i: -row[i])[:3]


def test_of_equal_ones_the_first_is_taken_and_all_may_be():
    assert match(np.zeros((1, 12)), ["b"], GIVEN, 4).tolist() == [[1, 2, 9, 10]]


@pytest.mark.parametrize(
    "wanted, k, message",
    [
        (["a", "d"], 1, "k=1: class 'd' has 0 texts: write more, or take fewer"),
        (["a"], 5, "k=5: class 'a' has 4 texts"),
        (["a"], 0, "k=0: must be at least 1"),
    ],
)
def test_what_has_too_few_is_named(wanted, k, message):
    with pytest.raises(ValueError, match=message):
        match(SIMILARITY[: len(wanted)], wanted, GIVEN, k)
