"""The conditions of `tools.experiments.skillnet` differ in what they are said to differ in."""

import jax
import numpy as np

from tools.experiments import skillnet
from tools.experiments.common import Experiment


def counts(condition: str, edges=skillnet.EDGES) -> dict:
    """{parameters, active}: thousands of those of encoders, of one network."""
    experiment = Experiment(skillnet.config(condition, edges, 10, 8))
    return skillnet.sizes(jax.eval_shape(experiment.init), [m.name for m in experiment.run.modalities])


def test_active_and_total_parameters_are_those_that_are_compared():
    ours, of_all = counts("SkillNet"), counts("SkillNet, a skill of all")
    active, total = counts("dense, equal active"), counts("dense, equal total")
    assert ours["active"] == active["active"] == active["parameters"]
    assert abs(ours["parameters"] / total["parameters"] - 1) < 0.01, "biases of the other skills alone"
    assert abs(of_all["active"] / active["active"] - 1) < 0.01 and of_all["parameters"] < ours["parameters"]
    control = counts(skillnet.CONTROL, skillnet.EDGES[:1])
    assert control["active"] == active["active"] and round(control["parameters"] / active["parameters"], 9) == 2


def test_modalities_are_views_of_one_latent_and_held_out_is_another_part():
    train, held_out = skillnet.examples(0, sizes=(64, 32))
    assert set(train) == {*skillnet.NAMES, "row"} and len(train["row"]) == 64 and len(held_out["row"]) == 32
    assert not set(train["row"].ravel()) & set(held_out["row"].ravel())
    values = [train[n]["vectors"].reshape(64, -1) for n in skillnet.NAMES]
    assert all(np.isfinite(v).all() for v in values)
    centred = [v - v.mean(0) for v in values]
    # 64 examples of more numbers than there are latents: distances of one view follow those of another.
    distances = [np.linalg.norm(v[:, None] - v[None], axis=-1)[np.triu_indices(64, 1)] for v in centred]
    assert np.corrcoef(distances).min() > 0.3
