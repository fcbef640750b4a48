"""The codecs of structured annotations: invertible on random values, exact on examples, and clear on bad text."""

import numpy as np
import pytest

from data_pipeline import structured
from data_pipeline.structured import (
    GREATEST,
    METADATA,
    Human,
    Point,
    crop_boxes,
    decode_detections,
    decode_humans,
    decode_instances,
    decode_metadata,
    encode_detections,
    encode_humans,
    encode_instances,
    encode_metadata,
)  # fmt: skip

SEEDS = range(40)
HALF = 0.5 / 999 + 1e-9


def boxes(rng, n):
    corners = np.sort(rng.random((n, 2, 2)), axis=1)
    return corners.reshape(n, 4)


def human(rng):
    def codes():
        return tuple(rng.integers(1024, size=8).tolist())

    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    numbers = (turn.ravel(), rng.uniform(-1, 19, 3), rng.uniform(-3, 3, 10))
    return Human(tuple(boxes(rng, 1)[0]), codes(), *map(tuple, numbers), mirrored=codes())


@pytest.mark.parametrize("seed", SEEDS)
def test_detections(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(6)
    given, names = boxes(rng, n), rng.choice(["cat", "traffic light", "hot dog"], n).tolist()
    text = encode_detections(given, names)
    got, got_names = decode_detections(text)
    order = np.argsort(np.square(given[:, :2]).sum(1), kind="stable")
    np.testing.assert_allclose(got, given[order], atol=HALF)
    assert got_names == [names[i] for i in order]
    assert sorted(encode_detections(got, got_names).split()) == sorted(text.split())


def test_a_detection_reads_as_in_4m():
    assert encode_detections([[0.5, 0.25, 1.0, 0.75], [0, 0, 0.1, 0.1]], ["dog", "cat"]) == (
        "v0=0 v1=0 v2=100 v3=100 cat v0=500 v1=250 v2=999 v3=749 dog"
    )


def test_crops_and_flips():
    inside, kept = crop_boxes([[0.25, 0.25, 0.75, 0.75], [0, 0, 0.2, 0.2]], (50, 0, 50, 100), (100, 100))
    np.testing.assert_allclose(inside[0], [0.25, 0, 0.75, 0.5])
    assert kept.tolist() == [True, False]
    flipped, _ = crop_boxes([[0.25, 0.25, 0.75, 0.75]], (0, 0, 100, 50), (100, 100), flip=True)
    np.testing.assert_allclose(flipped[0], [0, 0.25, 0.5, 0.75])
    _, kept = crop_boxes([[0.25, 0.25, 0.75, 0.75]], (50, 0, 50, 100), (100, 100), min_visible=0.6)
    assert not kept[0]
    with pytest.raises(ValueError, match="crop first"):
        encode_detections([[0, 0, 1.5, 1]], ["cat"])


@pytest.mark.parametrize("seed", SEEDS)
def test_metadata(seed):
    rng = np.random.default_rng(seed)
    values = {}
    for name, how in METADATA:
        if rng.random() < 0.7:
            most = 1.2 * how[-1] if not isinstance(how, str) else rng.integers(1, 5000) if how == "size" else 1200
            values[name] = rng.uniform(0, min(most, GREATEST.get(name, most)))
            if isinstance(how, str):
                values[name] = 1 + int(values[name])
    text = encode_metadata(values, rng)
    got = decode_metadata(text)
    assert got.keys() == values.keys() and sorted(encode_metadata(got).split()) == sorted(text.split())
    for name, how in METADATA:
        if name in values and isinstance(how, tuple):
            assert abs(got[name] - np.clip(values[name], *how)) <= (how[1] - how[0]) / 49
        elif name in values and how == "count":
            assert got[name] == min(values[name], 999)


def test_metadata_of_a_scale_that_does_not_begin_at_zero(monkeypatch):
    monkeypatch.setattr(structured, "METADATA", (("degrees", (-40.0, 60.0)),))
    assert [encode_metadata({"degrees": x}) for x in (-40, 10, 59, 60, 99)] == [
        f"v1=0 v0={n}" for n in (0, 24, 48, 49, 49)
    ]
    with pytest.raises(ValueError, match=r"metadata degrees=-41: must be a number of -40…inf"):
        encode_metadata({"degrees": -41})


def test_metadata_reads_as_in_4m():
    values = dict(original_width=640, aesthetic_score=5.0, watermark_score=0.7, brightness=255, entropy=5.0)
    assert encode_metadata(values) == "v1=0 v0=20 v1=10 v0=49 v1=13 v0=24 v1=19 v0=1 v1=20 v0=1"


@pytest.mark.parametrize("seed", SEEDS)
def test_humans(seed):
    rng = np.random.default_rng(seed)
    people = [human(rng) for _ in range(rng.integers(4))]
    text = encode_humans(people, rng)
    assert text == "none" if not people else len(text.split()) == 39 * len(people)
    got = decode_humans(text)
    for a, b in zip(got, people, strict=True):
        assert a.pose == b.pose
        np.testing.assert_allclose(a.box, b.box, atol=HALF)
        for one, two, width in (
            (a.orientation, b.orientation, 499.5), (a.camera, b.camera, 49.95), (a.shape, b.shape, 166.5),
        ):  # fmt: skip
            np.testing.assert_allclose(one, two, atol=0.5 / width + 1e-9)
    assert encode_humans(got) == encode_humans(decode_humans(encode_humans(got)))


def test_a_flipped_person_is_mirrored_in_every_part_and_back():
    person = human(np.random.default_rng(0))
    flipped = person.flip()
    assert flipped.pose == person.mirrored and flipped.camera[1] == -person.camera[1]
    assert flipped.box[0] == 1 - person.box[2] and flipped.box[1] == person.box[1]
    turn = np.reshape(flipped.orientation, (3, 3))
    np.testing.assert_allclose(np.abs(turn @ turn.T), np.eye(3), atol=1e-12)
    back = flipped.flip()
    assert back.pose == person.pose
    np.testing.assert_allclose(back.box, person.box)
    np.testing.assert_allclose(back.orientation, person.orientation)
    with pytest.raises(ValueError, match="codes of the mirrored pose"):
        Human(person.box, person.pose, person.orientation, person.camera, person.shape).flip()


@pytest.mark.parametrize("seed", SEEDS)
def test_instances(seed):
    rng = np.random.default_rng(seed)
    points = []
    for _ in range(rng.integers(1, 7)):
        n = rng.integers(3)
        codes = rng.integers(1024, size=(n, 16))
        points.append(Point(tuple(rng.random(2)), tuple((tuple(b), tuple(c)) for b, c in zip(boxes(rng, n), codes))))
    text = encode_instances(points)
    got = decode_instances(text)
    assert encode_instances(got) == text
    for a, b in zip(got, points, strict=True):
        np.testing.assert_allclose(a.at, b.at, atol=HALF)
        for (box, codes), (want, want_codes) in zip(a.instances, b.instances, strict=True):
            np.testing.assert_allclose(box, want, atol=HALF)
            assert codes == want_codes


@pytest.mark.parametrize(
    "decode, text",
    [
        (decode_detections, "v0=1 v1=2 v2=3 cat"), (decode_metadata, "v1=21 v0=3"), (decode_metadata, "v0=3 v1=2"),
        (decode_humans, "human v0=1 v1=1 v2=2 v3=2 pose v0=1"), (decode_humans, "nobody"),
        (decode_instances, "point v0=1 v1=2"), (decode_instances, "point v0=1 v1=2 none none"),
    ],
)  # fmt: skip
def test_other_text_is_refused(decode, text):
    with pytest.raises(ValueError, match=r"does not fit|TYPE v0=BIN"):
        decode(text)
