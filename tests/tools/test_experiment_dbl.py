"""The conditions of `tools.experiments.dbl` differ in what they are said to differ in, and the target starts alike."""

import jax
import numpy as np

from tools.experiments import dbl
from tools.experiments.common import Experiment


def test_a_target_starts_alike_beside_an_anchor_that_does_not_and_alone():
    init = lambda name: jax.jit(Experiment(dbl.config(name, 8, 8)).init)(jax.random.key(3))
    boosted, alone = init("boosted, rel"), init("margin 0.4")
    jax.tree.map(np.testing.assert_array_equal, boosted["model"], alone["model"])
    anchor = boosted["models"]["anchor"]
    kernels = [np.asarray(m["a_project"]["linear"]["kernel"]) for m in (anchor, boosted["model"])]
    assert "models" not in alone and (kernels[0] != kernels[1]).all()


def test_conditions_add_to_the_unboosted_pair():
    made = {name: dbl.config(name, 8, 8) for name in dbl.CONDITIONS}
    base = made[dbl.TARGET]["objectives"]
    added = {n: {k: o for k, o in c["objectives"].items() if k not in base} for n, c in made.items()}
    assert {n: a["boosting"]["form"] for n, a in added.items() if a and "boosting" in a} == {
        "boosted, rel": "rel", "boosted, abs": "abs", dbl.MOVING: "rel"
    }  # fmt: skip
    assert all(set(added[n]) == {"mutual_online", "mutual_anchor"} for n in dbl.MUTUAL)
    margins = {n: {o["margin"] for o in made[n]["objectives"].values()} for n in dbl.MARGINS}
    assert margins == {n: {m} for n, m in dbl.MARGINS.items()}
    controls = {gate.control for gate in dbl.GATES}
    assert controls == {dbl.TARGET, *dbl.MUTUAL, *dbl.MARGINS} and len(dbl.GATES) == 2 * len(controls)
