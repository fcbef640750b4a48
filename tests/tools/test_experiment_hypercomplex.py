"""The graphs of `tools.experiments.hypercomplex` and its conditions are what they are said to be."""

import numpy as np

from tools.experiments import hypercomplex


def test_relations_of_the_ring_are_steps_in_one_direction():
    triples = hypercomplex.ring(3)
    whole = np.concatenate(list(triples.values()))
    assert len({tuple(t) for t in whole.tolist()}) == len(whole) == hypercomplex.ENTITIES * len(hypercomplex.STEPS)
    assert len(triples["test"]) == int(0.3 * len(whole)), "as many of every seed"
    after = {(h, r): t for h, r, t in whole.tolist()}
    for h in range(0, hypercomplex.ENTITIES, 9):
        one, other = after[after[h, 2], 3], after[h, 4]  # 3 + 5 = 8
        assert one == other and after[after[h, 0], 0] == after[h, 1] != h


def test_conditions_differ_in_what_their_names_say():
    made = {name: hypercomplex.config(name, 8, 8)["objectives"]["links"] for name in hypercomplex.CONDITIONS}
    assert made[hypercomplex.DISTMULT] == dict(views=[], dim=32, product="real", normalise=False, score="dot")
    assert made[hypercomplex.HAMILTON] == made[hypercomplex.STRUCTURE] == dict(views=[], dim=32)
    assert made[hypercomplex.TEXT] == made[hypercomplex.OTHERS] == dict(views=list(hypercomplex.VIEWS), dim=32)


def test_the_text_of_others_is_that_of_another_entity():
    experiment = hypercomplex.Experiment(hypercomplex.config(hypercomplex.OTHERS, 8, 16))
    one = experiment.objectives["links"]
    own, other = one.context.read("entities"), hypercomplex.shuffled(one).context.read("entities")
    same = [(own[n]["vectors"] == other[n]["vectors"]).all((1, 2)) for n in hypercomplex.VIEWS]
    assert np.logical_and.reduce(same).mean() < 0.01
    for name in hypercomplex.VIEWS:
        order = lambda x: np.sort(x["vectors"].sum((1, 2)))
        np.testing.assert_allclose(order(own[name]), order(other[name]), atol=1e-5)
