"""Attention knock-out: the planted circuit is found, groups are what they say, and what is not there is named."""

import dataclasses

import jax
import numpy as np
import pytest
from toy import Toy

from pretrain.evals import harness, knockout
from pretrain.evals.knockout import around
from tools.experiments import information_flow as flow
from tools.experiments.common import Experiment


@pytest.fixture(scope="module")
def circuit():
    """(a task, parameters): question looks the answer up in block 1, the last word takes it from there in block 2."""
    experiment = Experiment(flow.config(1, 8))
    data = dict(train=flow.examples(0, 128), val=flow.examples(1, 32))
    held = flow.Held(experiment.run, experiment.graphs, experiment.objectives, data)
    task = knockout.Evaluator(held, "image+text", "answer", flow.GROUPS, splits="val")
    return task, flow.planted(jax.jit(experiment.init)(jax.random.key(0)))


def test_the_right_edge_at_the_right_block_is_found_and_no_other(circuit):
    task, params = circuit
    lost, right, chance = task.lost(params)
    assert right == 1 and right.chance == 0.25 and chance == pytest.approx(-0.75, abs=0.01)
    assert len(lost) == 6
    for edge, changes in lost.items():
        cut = {("image", "text"): flow.LOOKS_UP, ("text", "last"): flow.HANDS_ON}.get(edge)
        for block, change in enumerate(changes):
            assert change == pytest.approx(chance if block == cut else 0.0, abs=0.01), (edge, block)


def test_a_window_cuts_several_blocks_and_heads_one_alone(circuit):
    task, params = circuit
    lost, _, chance = dataclasses.replace(task, window=3, groups=("image", "text")).lost(params)
    np.testing.assert_allclose(lost["image", "text"], [chance, chance, chance, 0.0], atol=0.01)
    found = dict(dataclasses.replace(task, heads=(1, 2, 3)).run(params))
    assert found["image→text"] == pytest.approx(0.0, abs=0.01), "the circuit is of head 0"
    found = dict(dataclasses.replace(task, heads=(0,)).run(params))
    assert found["image→text"] == pytest.approx(chance, abs=0.01) and found["image→text/block"] == flow.LOOKS_UP
    assert found["image→text"].chance == pytest.approx(chance)
    np.testing.assert_array_equal(around(0, 3, 4), [True, True, False, False])
    np.testing.assert_array_equal(around(2, 2, 4), [False, True, True, False])


@pytest.mark.slow
def test_groups_are_all_that_there_are(circuit):
    task, params = circuit
    found = dict(dataclasses.replace(task, groups=()).run(params))
    names = [name for name in found if "→" in name and "/" not in name]
    assert len(names) == 12 and "special→last" in names, "the text's class token, and the pooled last one"
    toy = Toy(registers=1)
    task = knockout.Evaluator(toy, "image+caption", "label")
    task.check()
    found = dict(task.run(toy.params))
    assert set(found) == {"right", *(f"{a}→{b}{more}" for a, b in [
        ("image", "caption"), ("caption", "image"), ("image", "special"), ("special", "image"),
        ("caption", "special"), ("special", "caption"),
    ] for more in ("", "/block"))}  # fmt: skip
    assert found["right"] > 0.6
    titles = [title for title, _ in task.figures(toy.params, None)]
    assert len(titles) == 1 and "label from image+caption" in titles[0]
    toy = Toy()
    alone = dict(knockout.Evaluator(toy, "image", "label").run(toy.params))
    assert set(alone) == {"right", "image→image", "image→image/block"}


REFUSED = [
    (dict(modalities="image+sound"), r"knockout\.modalities: no modality 'sound'; the run has image"),
    (dict(modalities="image:1"), r"knockout\.modalities='image:1': name modalities, .* without a layer"),
    (dict(groups=["depth"]), r"knockout\.groups=.*no tokens 'depth' here; there are image, caption, special, last"),
    (dict(window=3), r"knockout\.window=3: must be 1 … 2, the blocks of 'encoder'"),
    (dict(window=0), r"knockout\.window=0: must be 1 … 2"),
    (dict(heads=[2]), r"knockout\.heads=.*'encoder' has heads 0 … 1"),
    (dict(examples=0), r"knockout\.examples=0: must be at least 1"),
    (dict(decay=0.0), r"knockout\.decay=0\.0: must be above 0"),
    (dict(label="kind"), r"knockout\.label: 'kind': row 0 of 'train' has no such field"),
]


@pytest.mark.parametrize("keys, message", REFUSED, ids=range(len(REFUSED)))
def test_refused_before_anything_is_computed(keys, message):
    context = Toy()
    context.run.final_evals = {"knockout": dict(modalities="image+caption", label="label") | keys}
    with pytest.raises(ValueError, match=message):
        harness.make_tasks(context)
    assert not context.passes


def test_a_group_of_which_there_is_no_token():
    toy = Toy()
    with pytest.raises(ValueError, match=r"no example of .* has tokens 'special': leave them out"):
        dict(knockout.Evaluator(toy, "image", "label", ("image", "special")).run(toy.params))
