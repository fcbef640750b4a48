"""The classes of `tools.experiments.gist` and its conditions are what they are said to be."""

import numpy as np

from tools.experiments import gist


def test_a_class_fixes_three_properties_and_leaves_three_open():
    world = gist.World(0)
    form = world.forms(np.arange(5).repeat(64)).reshape(5, 64, -1)
    open_ = (form != form[:, :1]).any(1)
    assert (open_.sum(1) == gist.PROPERTIES - gist.FIXED).all()
    assert len({tuple(row) for row in open_}) > 1, "not the same ones"


def test_names_say_nothing_of_pictures_and_captions_say_their_properties():
    world, who = gist.World(0), np.zeros(64, int)
    form = world.forms(who)
    names, captions = world.captions(who), world.captions(who, form)
    assert (names == names[0]).all()
    alike = (form[:, None] == form).all(-1)
    same = (np.abs(captions[:, None] - captions) < 1e-9).all(-1)
    np.testing.assert_array_equal(alike, same)


def test_a_picture_draws_one_of_its_captions():
    texts = np.arange(24.0).reshape(3, 4, 2)
    made = gist.data_of(np.ones((3, 5)), texts, np.asarray([0, 0, 1]))
    np.testing.assert_array_equal(made["b"]["vectors"][:, :, 0], texts)
    assert made["a"]["vectors"].shape == (3, 4, 1, 5) and made["row"].tolist() == [[i] * 4 for i in range(3)]
    np.testing.assert_array_equal(made["class"]["ids"][..., 0], [[0] * 4, [0] * 4, [1] * 4])
    assert gist.data_of(np.ones((3, 5)), texts[:, 0], np.asarray([0, 0, 1]))["b"]["vectors"].shape == (3, 1, 1, 2)


def test_conditions_differ_in_the_target_alone():
    made = {name: gist.config(name, 8, 8, 5) for name in gist.CONDITIONS}
    target = {name: c["objectives"]["contrastive"].pop("target", None) for name, c in made.items()}
    assert {n for n, t in target.items() if t} == {gist.LABELS} and len({str(c) for c in made.values()}) == 1
