"""What `tools.experiments.rtm` measures, and what its conditions differ in."""

import numpy as np
import pytest

from tools.experiments import rtm


def test_average_precision_and_patches():
    relevant = np.array([True, False, True, False])
    assert rtm.precision(np.array([4.0, 3.0, 2.0, 1.0]), relevant) == pytest.approx((1 + 2 / 3) / 2)
    assert rtm.precision(np.array([4.0, 1.0, 3.0, 2.0]), relevant) == 1
    x = np.zeros((1, 16, 24))
    x[0, 8:, 16:20] = 1
    np.testing.assert_array_equal(rtm.patches(x), [[[0, 0, 0], [0, 0, 0.5]]])


def test_conditions_differ_in_pictures_and_in_contrast_alone():
    made = {name: rtm.config(name, 8, 8) for name in rtm.CONDITIONS}
    assert [len(c["modalities"]) for c in made.values()] == [1, 4, 4]
    losses = [c["objectives"] for c in made.values()]
    assert [sorted(c) for c in losses] == [["dense"], ["dense"], ["dense", "map_contrast"]]
    assert losses[1]["dense"] == losses[2]["dense"] and losses[2]["map_contrast"]["coef"] == 0.05
    alone, beside = ({k: v for k, v in made[n].items() if k != "objectives"} for n in (rtm.ALONE, rtm.RTM))
    assert alone == beside
