"""Scenes of two silhouettes: what the caption says of their colours and places is what the picture shows."""

import numpy as np
import pytest

from data_pipeline.sources.coloured_emoji import COLOURS
from data_pipeline.sources.related_emoji import RELATIONS, Source


def middle(picture, colour) -> np.ndarray:
    """(down, across) of the pixels of a colour."""
    return np.argwhere(np.abs(picture.astype(int) - COLOURS[colour]).sum(-1) < 30).mean(0)


def test_captions_say_what_is_where():
    source, counts = Source("val", scenes=400), set()
    for i in range(len(source)):
        e = source[i]
        (a, b), (x, y), relation = e["objects"], e["attributes"], e["relation"]
        assert a != b and x != y
        assert e["caption"] == [f"the {x} {a} is {relation} the {y} {b}", f"the {a} is {x} and the {b} is {y}"]
        first, second = (middle(e["picture"], colour) for colour in (x, y))
        axis, sign = {"left of": (1, 1), "right of": (1, -1), "above": (0, 1), "below": (0, -1)}[relation]
        assert sign * (second - first)[axis] > 6
        counts.add(relation)
    assert counts == set(RELATIONS) and e["picture"].shape == (48, 48, 3)


def test_every_read_is_the_same_and_splits_differ():
    val, both = Source("val", scenes=50), Source(("train", "val"), scenes=50)
    assert len(both) == 55 and both[52]["caption"] == val[2]["caption"]
    assert np.array_equal(both[52]["picture"], val[2]["picture"]) and repr(val) != repr(both)
    assert [both[i]["caption"] for i in range(5)] != [val[i]["caption"] for i in range(5)]
    with pytest.raises(ValueError, match="scenes=5, side=48: need at least 10 scenes of 24 pixels"):
        Source(scenes=5)
