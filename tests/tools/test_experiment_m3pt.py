"""The places of `tools.experiments.m3pt`, and what its conditions differ in."""

import numpy as np

from tools.experiments import m3pt


def test_contents_differ_under_one_tag_and_kin_are_near():
    train, held_out = m3pt.places(0)
    assert train["tag"]["vectors"].shape == (512, m3pt.CONTENTS, m3pt.TOKENS, m3pt.WIDTH)
    tags = held_out["tag"]["vectors"].reshape(512, -1)
    np.testing.assert_array_equal(train["tag"]["vectors"][:, 3].reshape(512, -1), tags)
    for name in ("image", "text"):
        assert (train[name]["vectors"][:, 0] != held_out[name]["vectors"]).any((1, 2)).all()
    tags = tags - tags.mean(0)
    tags /= np.linalg.norm(tags, axis=1, keepdims=True)
    likeness, family = tags @ tags.T, np.arange(512) // m3pt.EACH
    np.fill_diagonal(likeness, -1)
    assert (family[likeness.argmax(1)] == family).mean() > 0.9


def test_conditions_differ_in_how_negatives_are_drawn_alone():
    made = {name: m3pt.config(name, 8, 8) for name in m3pt.SCALES}
    assert [c["objectives"]["match"].pop("scale") for c in made.values()] == [0.0, 1.0, 20.0]
    assert len({str(c) for c in made.values()}) == 1
