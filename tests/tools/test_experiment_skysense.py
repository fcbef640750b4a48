"""The conditions of `tools.experiments.skysense` are what they are said to be."""

import numpy as np

from tools.experiments import skysense


def test_conditions_differ_in_levels_alone():
    made = {n: skysense.config(n, 8, 16) for n in skysense.LEVELS}
    levels = {n: c["objectives"]["granularity"].pop("levels") for n, c in made.items()}
    assert levels == skysense.LEVELS and made[skysense.WHOLE] == made[skysense.ALL]


def test_few_shots_are_of_their_region():
    """Covers that lie elsewhere in another region are told there only by that region's own."""
    rng = np.random.default_rng(0)
    cover, region = rng.integers(skysense.COVERS, size=(64, 36)), np.arange(64) % skysense.REGIONS
    turned = np.eye(skysense.COVERS)[(cover + region[:, None]) % skysense.COVERS]
    x = turned + 0.01 * rng.normal(size=turned.shape)
    assert skysense.few_shot(x, cover, region, x, cover, region) > 0.99
    assert skysense.few_shot(x, cover, region, x, cover, (region + 1) % skysense.REGIONS) < 0.2
