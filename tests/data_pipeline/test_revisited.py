"""Simulated squares of land, and the dates that are drawn of what sensors saw."""

import numpy as np
import pytest

from data_pipeline.sources.revisited import BANDS, COVERS, NOISE, YEAR, Source, looks
from data_pipeline.transforms.acquisitions import Transform

DRAW = Transform(("optical", "spectral", "radar"), (1, 3, 2), view="view")


def test_a_square_hangs_on_its_number_alone_and_splits_differ():
    a, b = Source("train"), Source(("val", "train"))
    assert len(a) == 2000 and len(b) == 2200
    for key, value in a[7].items():
        assert key == "row" or np.array_equal(value, b[207][key]), key
    assert not np.array_equal(b[7]["cover"], a[7]["cover"])
    assert set(a[7]) == a.fields | {"row"} and repr(a) != repr(Source("train", dates=4))


def test_what_is_seen_is_the_cover_in_its_region_and_season():
    source, found = Source("train", squares=400, regions=2), {}
    for i in range(400):
        example = source[i]
        cover = example["cover"].ravel()
        assert example["spectral"].shape == (8, 36, 6) and (np.diff(example["spectral_dates"]) > 0).all()
        for k in set(cover):
            found.setdefault((example["region"], k), []).append(example["radar"][:, cover == k].mean((0, 1)))
    assert set(found) == {(r, k) for r in range(2) for k in range(len(COVERS))}
    for (region, k), means in found.items():
        np.testing.assert_allclose(np.mean(means, 0), looks("radar", region)[k, : BANDS["radar"]], atol=0.15)
    assert np.abs(looks("radar", 0) - looks("radar", 1)).max() > 0.3
    own, swing, phase = np.split(looks("spectral", example["region"])[cover], [6, 12], axis=1)
    season = np.cos(2 * np.pi * example["spectral_dates"][:, None, None] / YEAR + phase)
    assert (example["spectral"] - own - season * swing).std() == pytest.approx(NOISE["spectral"], rel=0.1)
    assert (example["spectral"] - own).std() > 1.2 * NOISE["spectral"]


def test_frames_are_of_the_dates_that_are_told():
    example = Source("train")[3]
    made = DRAW(example, np.random.default_rng(0))
    assert made["spectral"].shape == (3 * 36, 6) and made["radar"].shape == (2 * 36, 2) and len(made["dates"]) == 6
    for end in ("", "/view"):
        for at, frame in enumerate(made[f"spectral{end}"].reshape(3, 36, 6)):
            day = made[f"dates{end}"][1 + at]
            np.testing.assert_array_equal(frame, example["spectral"][list(example["spectral_dates"]).index(day)])
    views = [DRAW(example, np.random.default_rng(i)) for i in range(20)]
    assert any(not np.array_equal(v["dates"], v["dates/view"]) for v in views)
    assert len({tuple(v["dates"]) for v in views}) > 10
    still = DRAW(example, None)
    np.testing.assert_array_equal(still["dates"], still["dates/view"])
    lacking = DRAW(example | {"radar": None}, None)
    assert lacking["radar"] is None and lacking["radar/view"] is None and len(lacking["dates"]) == 6


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Source("dev"), "split='dev' is unknown"),
        (lambda: Source(squares=5), "squares=5, .*: need at least 10 squares"),
        (lambda: Source(dates=400), "dates=400, .* 1 to 365 dates"),
        (lambda: Transform((), ()), r"acquisitions.sensors=\(\), frames=\(\): name fields"),
        (lambda: Transform(("a", "b"), (1,)), r"frames=\(1,\): name fields, and of each how many"),
        (lambda: Transform(("a",), (1,), dates="a"), "dates='a', view='': give names that nothing else has"),
        (lambda: Transform(("spectral",), (9,))(Source()[0], None), r"row 0 has spectral \(8, 36, 6\) .* frames=9"),
    ],
)
def test_what_cannot_be_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
