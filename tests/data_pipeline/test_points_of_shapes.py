"""What OpenShape does to data: rows drawn from several fields, and clouds of points that are turned."""

import numpy as np
import pytest

from data_pipeline.transforms import one_row, turned_points

TEXTS = (("name",), ("blip", "azure"), ("retrieved",))
FULL = dict(row=0, name=[[1.0]], blip=[[2.0]], azure=[[3.0]], retrieved=[[4.0], [5.0]])


def drawn(example, of=TEXTS, count=3000):
    made = one_row.Transform("text", of)
    found = [made(example, np.random.default_rng(i))["text"] for i in range(count)]
    values, counts = np.unique([-1.0 if x is None else x[0] for x in found], return_counts=True)
    return dict(zip(values.tolist(), (counts / count).tolist()))


def test_groups_then_fields_then_rows_are_drawn_evenly():
    assert drawn(FULL) == pytest.approx({1: 1 / 3, 2: 1 / 6, 3: 1 / 6, 4: 1 / 6, 5: 1 / 6}, abs=0.03)


def test_of_what_is_lacking_the_others_have_more():
    """A captioner that was drawn and said nothing leaves out all captions, as in the release."""
    lacks = {k: v for k, v in FULL.items() if k not in ("name", "azure")}
    assert drawn(lacks) == pytest.approx({2: 1 / 4, 4: 3 / 8, 5: 3 / 8}, abs=0.03)
    assert drawn(dict(row=0, azure=[[3.0]], name=[])) == pytest.approx({3: 1 / 2, -1: 1 / 2}, abs=0.03)
    assert drawn(dict(row=0), count=5) == {-1: 1.0}


def test_evaluation_takes_the_first_that_there_is():
    made = one_row.Transform("text", TEXTS)
    assert made(FULL, None)["text"] == [1.0] and made(dict(row=0, azure=[[3.0], [9.0]]), None)["text"] == [3.0]
    assert made(dict(row=0), None)["text"] is None
    np.testing.assert_array_equal(made(dict(row=0, name=np.arange(3.0)), None)["text"], np.arange(3.0))


@pytest.mark.parametrize(
    "of", [(), ((),), (("text",),), (("name",), ("name",))], ids=["none", "an empty group", "itself", "twice"]
)
def test_groups_that_cannot_be_are_refused(of):
    with pytest.raises(ValueError, match=r"one_row\.field='text', of=.*: give it a name that nothing else has"):
        one_row.Transform("text", of)


def cloud(count=500):
    return np.random.default_rng(7).uniform(size=(count, 6)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_turn_keeps_lengths_and_what_lies_along_the_axis(axis):
    before, made = cloud(), turned_points.Transform(axis=axis, jitter=0.0, grey=0.0)
    angles = []
    for seed in range(50):
        after = made({"row": 0, "points": before}, np.random.default_rng(seed))["points"]
        np.testing.assert_array_equal(after[:, [axis, 3, 4, 5]], before[:, [axis, 3, 4, 5]])
        i, j = (k for k in range(3) if k != axis)
        turn = (after[:, i] + 1j * after[:, j]) / (before[:, i] + 1j * before[:, j])
        np.testing.assert_allclose(np.abs(turn), 1, rtol=1e-4)
        assert np.abs(turn - turn[0]).max() < 1e-3
        angles.append(np.angle(turn[0]))
    assert len(np.unique(np.digitize(angles, np.linspace(-np.pi, np.pi, 5)))) == 4


def test_jitter_and_grey():
    before, made = cloud(), turned_points.Transform(axis=-1, jitter=0.01, grey=0.5)
    every = [made({"row": 0, "points": before}, np.random.default_rng(i))["points"] for i in range(200)]
    moved = np.stack([x[:, :3] for x in every]) - before[:, :3]
    assert moved.std() == pytest.approx(0.01, rel=0.02) and np.abs(moved).max() <= 0.0501
    grey = np.asarray([(x[:, 3:] == np.float32(0.4)).all() for x in every])
    assert 0.35 < grey.mean() < 0.65 and all((x[:, 3:] == before[:, 3:]).all() for x in np.asarray(every)[~grey])
    assert made({"row": 0, "points": before}, None)["points"] is before
    assert made({"row": 0}, np.random.default_rng(0)) == {"row": 0}


@pytest.mark.parametrize(
    "settings, message",
    [(dict(axis=3), r"axis=3: must be 0, 1 or 2"), (dict(jitter=-1.0), "need a deviation"), (dict(grey=2.0), "0 to 1")],
)
def test_turns_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        turned_points.Transform(**settings)


def test_points_without_colours_are_named():
    with pytest.raises(ValueError, match=r"row 4 has \(5, 3\); it needs rows of 6 numbers"):
        turned_points.Transform()({"row": 4, "points": np.zeros((5, 3))}, np.random.default_rng(0))
