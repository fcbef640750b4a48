"""Simulated scenes, and the kind of labels that a detector gives: what an example says is what its arrays show."""

import numpy as np
import pytest

from data_pipeline import kinds
from data_pipeline.checks import check_labels
from data_pipeline.sources.emoji_scenes import KINDS, PLACES, STYLES, Source, features
from data_pipeline.spec import Modality

LABEL = Modality("kind", "detections", (3, 2), "kinds", vocab_size=len(KINDS))
CENTRES = np.array(list(PLACES.values()))


def read(spec, value):
    return kinds.of(spec).read(spec, {"row": 7, spec.field: value}, None, None)


def test_sentences_say_what_lies_where():
    source = Source("train", scenes=400)
    asked = 0
    for i in range(200):
        e = source[i]
        names = [KINDS[int(k)] for k in e["kinds"][:, 0]]
        middles = (e["boxes"][:, :2] + e["boxes"][:, 2:]) / 2  # a box ends where the picture does
        places = [list(PLACES)[np.abs(CENTRES - m).sum(1).argmin()] for m in middles]
        assert len(set(places)) == len(set(names)) == 3 and (0 <= e["boxes"]).all() and (e["boxes"] <= 1).all()
        np.testing.assert_array_equal(
            e["objects"], features()[e["kinds"][:, 0].astype(int), e["styles"][:, 0].astype(int)]
        )
        where, words = dict(zip(names, places)), e["sentence"].split()
        if e["answer"] is not None:
            asked += 1
            assert words == ["what", where[KINDS[e["answer"]]]]
        else:
            a, x, _, b, y = words
            assert where[a] == x and where[b] == y and a != b
    assert 70 < asked < 130


def test_features_are_pictures_and_no_two_emoji_look_alike():
    x = features()
    assert x.shape == (len(KINDS), len(STYLES), 192) and x.dtype == np.float32 and -1 <= x.min() < x.max() <= 1
    flat = x.reshape(len(KINDS) * len(STYLES), -1)
    distance = np.abs(flat[:, None] - flat).mean(-1) + np.eye(len(flat))
    assert distance.min() > 0.02


def test_splits_are_other_scenes_and_every_read_is_the_same():
    train, val = Source("train", scenes=200), Source("val", scenes=200)
    both = Source(("train", "val"), scenes=200)
    assert (len(train), len(val), len(both)) == (200, 10, 210)
    same = lambda a, b: a["sentence"] == b["sentence"] and np.array_equal(a["boxes"], b["boxes"])
    assert same(both[203], val[3]) and same(train[5], Source("train", scenes=200)[5]) and not same(train[3], val[3])
    assert [both[i]["row"] for i in (0, 209)] == [0, 209]
    assert all(Source(questions=q)[i]["answer"] is None for i in range(5) for q in (0.0,))
    for wrong in (dict(split="all"), dict(objects=5), dict(questions=1.5), dict(scenes=3)):
        (key,) = wrong
        with pytest.raises(ValueError, match=f"{key}="):
            Source(**wrong)


def test_detections_are_classes_and_confidences():
    np.testing.assert_array_equal(read(LABEL, [[3, 0.5], [4, 1.0]]), np.float32([[3, 0.5], [4, 1]]))
    random = kinds.of(LABEL).synthetic(LABEL, 50, np.random.default_rng(0))["vectors"]
    assert len(set(random[..., 0].ravel())) == len(KINDS) and set(random[..., 1].ravel()) == {0.0, 1.0}
    check_labels((LABEL,), Source(scenes=40))


@pytest.mark.parametrize(
    "value", [[[24, 1]], [[3, 1.5]], [[2.5, 1.0]], [[-1, 1.0]], [["dog", 1]], [[np.nan, 1.0]], "dog"]
)
def test_wrong_detections_name_the_row_and_what_is_wanted(value):
    with pytest.raises(ValueError, match=r"modality 'kind': row 7 holds kinds=.*: it must be rows"):
        read(LABEL, value)


def test_wrong_specs_are_named():
    with pytest.raises(
        ValueError, match=r"'kind': shape, vocab_size=.*: must be .objects, 2. and the number of classes"
    ):
        Modality("kind", "detections", (3, 2), "kinds")
