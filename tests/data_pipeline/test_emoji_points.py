"""Clouds of points of emoji: what they are drawn from, and views that show something else."""

import numpy as np
import pytest

from data_pipeline.sources import emoji, emoji_points


def test_points_lie_in_the_silhouette_and_have_its_colours():
    e, drawn = emoji.Source("val")[7], emoji_points.Source("val", points=300)[7]
    points = drawn["points"]
    assert points.shape == (300, 6) and drawn["id"] == e["id"] and drawn["row"] == e["row"]
    np.testing.assert_allclose(np.linalg.norm(points[:, :3], axis=1).max(), 1, rtol=1e-5)
    inside = e["mask"][..., 0] < 128
    known = {tuple(c) for c in e["render3d"][inside].tolist()}
    assert {tuple(c) for c in np.round(points[:, 3:] * 255).astype(int).tolist()} <= known
    columns = np.nonzero(inside.any(0))[0]
    rows = np.nonzero(inside.any(1))[0]
    wide, high = (np.ptp(points[:, i]) for i in (0, 1))
    np.testing.assert_allclose(wide / high, (np.ptp(columns) + 1) / (np.ptp(rows) + 1), rtol=0.2)
    np.testing.assert_array_equal(points, emoji_points.Source("val", points=300)[7]["points"])


def test_a_cushion_is_thickest_in_the_middle():
    inside = np.zeros((9, 9), bool)
    inside[2:7, 2:7] = True
    want = np.zeros((9, 9))
    for k in (1, 2, 3):
        want[1 + k : 8 - k, 1 + k : 8 - k] += 1
    np.testing.assert_array_equal(emoji_points.thickness(inside), want)
    assert emoji_points.thickness(np.ones((4, 4), bool)).max() == 2, "it ends at the border of the picture"


def test_views_are_small_pictures_with_their_numbers():
    e, views = emoji.Source("val")[7], emoji_points.Source("val")[7]["views"]
    assert views[:, :2].tolist() == [[0, 0], [1, 0], [2, 1], [3, 1]]
    block = e["noto"][8:12, 20:24].astype(float).mean((0, 1)) / 127.5 - 1
    np.testing.assert_allclose(views[1, 2:].reshape(16, 16, 3)[2, 5], block, atol=1e-5)
    assert np.ptp(views[2, 2:].reshape(-1, 3), axis=1).max() == 0, "lines have no colour"


def test_a_share_of_views_shows_others():
    clean, half = emoji_points.Source("test"), emoji_points.Source("test", wrong=0.5)
    same = np.stack([(clean[i]["views"] == half[i]["views"]).all(1) for i in range(60)])
    assert 0.35 < same.mean() < 0.65 and (same.any(1) & ~same.all(1)).any()
    for i in (0, 5):
        np.testing.assert_array_equal(clean[i]["points"], half[i]["points"])
        np.testing.assert_array_equal(clean[i]["views"][:, :2], half[i]["views"][:, :2])


@pytest.mark.parametrize("settings", [dict(points=0), dict(wrong=1.0), dict(wrong=-0.1)])
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match="need a point, and a share"):
        emoji_points.Source(**settings)
