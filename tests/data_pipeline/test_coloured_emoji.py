"""Scenes of coloured silhouettes: what the caption names is what lies in the boxes, and pairs are held out."""

import numpy as np
import pytest

from data_pipeline.sources.coloured_emoji import COLOURS, SHAPES, Source, silhouettes, which


def colour_of(pixels) -> str:
    """The colour of the pixel that is least like the white around it."""
    rows = pixels.reshape(-1, 3).astype(int)
    ink = rows[(255 - rows).sum(1).argmax()]
    return min(COLOURS, key=lambda name: np.abs(ink - COLOURS[name]).sum())


def test_captions_say_what_lies_in_the_boxes():
    source, counts = Source(scenes=200, side=36), set()
    for i in range(60):
        e = source[i]
        names, text = e["caption"].split(" and "), e["phrases"]["text"]
        assert text == e["caption"] and [text[a:b] for ((a, b),) in e["phrases"]["spans"]] == names
        assert len(names) == len(e["boxes"]) == len(e["pairs"]) == len(set(names))
        counts.add(len(names))
        for name, box, (pair, sure) in zip(names, e["boxes"], e["pairs"]):
            left, top, right, bottom = np.rint(box * 36).astype(int)
            inside = e["picture"][top:bottom, left:right]
            colour, shape = name.split()
            assert colour == colour_of(inside) and pair == list(COLOURS).index(colour) * 6 + SHAPES.index(shape)
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert sure == 1 and all((edge < 250).any() for edge in edges)
            assert 8 <= max(inside.shape) <= 12
    assert counts == {1, 2, 3}


def test_a_third_of_the_pairs_is_held_out_and_nothing_of_it_new():
    seen, unseen = which("seen"), which("unseen")
    assert len(unseen) == 12 and sorted([*seen, *unseen]) == list(which("all"))
    for numbers in (seen, unseen):
        assert set(numbers // 6) == set(range(len(COLOURS))) and set(numbers % 6) == set(range(len(SHAPES)))
    for pairs in ("seen", "unseen"):
        source = Source("val", scenes=400, pairs=pairs)
        named = {int(p) for i in range(40) for p in source[i]["pairs"][:, 0]}
        assert named <= set(which(pairs)) and len(named) > 10


def test_objects_do_not_touch():
    source = Source(scenes=20, objects=9, named=9, side=48, pairs="all")
    boxes = source[4]["boxes"]
    assert len({tuple(b) for b in boxes}) == len(boxes)
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert (np.maximum(a[:2], b[:2]) >= np.minimum(a[2:], b[2:])).any()


def test_pixels_say_which_shape_they_show():
    source = Source(scenes=20, objects=2, named=2, side=48)
    e = next(e for e in map(source.__getitem__, range(20)) if len(e["boxes"]) == 2)
    left = e["shapes"][..., 0].copy()
    assert e["shapes"].shape == (48, 48, 1) and e["shapes"].dtype == np.uint8
    for (pair, _), box in zip(e["pairs"], np.rint(e["boxes"] * 48).astype(int)):
        here = left[box[1] : box[3], box[0] : box[2]]
        assert set(np.unique(here)) == {0, 1 + int(pair) % 6} and (here > 0).mean() > 0.2
        here[...] = 0
    assert not left.any(), "the ground shows none"
    assert (e["picture"][e["shapes"][..., 0] == 0] > 90).all(1).mean() > 0.95


def test_splits_are_other_scenes_and_every_read_is_the_same():
    train, val, both = Source("train", scenes=50), Source("val", scenes=50), Source(("train", "val"), scenes=50)
    assert (len(train), len(val), len(both)) == (50, 5, 55)
    same = lambda a, b: a["caption"] == b["caption"] and np.array_equal(a["picture"], b["picture"])
    assert same(both[52], val[2]) and same(train[7], Source("train", scenes=50)[7]) and not same(train[2], val[2])
    assert repr(train) != repr(Source("train", scenes=50, pairs="all"))
    assert [x.dtype for x in silhouettes()] == [np.uint8] * len(SHAPES)
    for wrong in (dict(split="all"), dict(objects=10), dict(named=0), dict(side=8), dict(scenes=3), dict(pairs="some")):
        (key,) = wrong
        with pytest.raises(ValueError, match=f"{key}="):
            Source(**wrong)
