"""Grounding: which query answers for a phrase, and the average precision, against cases worked out by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs.systems import mdetr
from pretrain import build
from pretrain.evals import base, grounding
from pretrain.models.stream import Stream
from pretrain.restore import init_function


def phrase(scores, *ious):
    """Scores of queries, and for each the IoU with the boxes of the phrase."""
    return np.array(scores), np.array(ious).T


def test_accuracy_is_that_of_the_first_query():
    phrases = [
        phrase([0.9, 0.1], [0.6, 0.9]), phrase([0.1, 0.9], [0.6, 0.4]),
        phrase([0.5, 0.4], [0.1, 0.9], [0.7, 0.0]), phrase([0.2, 0.3], [0.9, 0.5]),
    ]  # fmt: skip
    assert grounding.accuracy(phrases) == 0.75


@pytest.mark.parametrize(
    "phrases, expected",
    [
        ([phrase([0.9, 0.1], [0.8, 0.0])], 1.0),
        ([phrase([0.9, 0.1], [0.0, 0.8])], 0.5),  # found second
        ([phrase([0.9, 0.8], [0.8, 0.9])], 1.0),  # found twice, all of it before the error
        ([phrase([0.9, 0.8, 0.7], [0.8, 0.9, 0.0], [0.0, 0.0, 0.8])], (1 + 2 / 3) / 2),  # a duplicate comes between
        ([phrase([0.9, 0.8], [0.8, 0.6], [0.7, 0.6])], 1.0),  # one each, of two boxes that both find
        ([phrase([0.9], [0.8]), phrase([0.8], [0.3])], 0.5),  # never found
        ([phrase([0.9], [0.3]), phrase([0.8], [0.8]), phrase([0.7], [0.8])], 2 / 3 * 2 / 3),  # interpolated
        ([phrase([0.9, 0.8], [0.4, 0.49])], 0.0),
    ],
)
def test_average_precision_by_hand(phrases, expected):
    assert grounding.average_precision(phrases) == pytest.approx(expected)


def test_a_query_scores_by_all_tokens_of_a_phrase_and_boxes_of_equal_names_are_one_phrase():
    logits = np.log(np.array([[[0.1, 0.2, 0.3, 0.4], [0.5, 0.3, 0.1, 0.1]]], np.float32))
    boxes = np.array([[[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]], np.float32)
    where = np.array([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]], np.float32)
    named = np.array([[[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 1]]], np.float32)  # tokens, boxes
    found = dict(
        logits=logits, boxes=Stream(boxes, None, None, None), where=where, phrases=named,
        valid=np.array([[True, True, True, False]]),
    )  # fmt: skip
    ((scores, iou),) = grounding.grounded(found)  # the third has no name, the fourth is padding
    np.testing.assert_allclose(scores, [0.3, 0.8], rtol=1e-6)
    np.testing.assert_allclose(iou, [[1, 0], [0, 1]], atol=1e-6)


def context(**changes):
    c = mdetr.get_config("tiny")
    c.data.options = dict(side=36, scenes=40)
    c.model = mdetr.model(16, 2, 2.0, 1, 1, 8, positions=17, towers=dict(dim=16, heads=2, depth=0))
    c.model.dtype = "float32"
    run = build.parse(json.loads(json.dumps(c.to_dict(), default=list)) | changes)
    objectives = build.objectives(run)
    graph, init = init_function(build.models(run, objectives), objectives, 0)
    return base.Context(run, graph, objectives), init


def test_it_runs_on_every_phrase_of_the_held_out_scenes():
    made, init = context()
    task = grounding.Evaluator(made, batch_size=3, **grounding.Evaluator.default(made))
    base.check(task, made, "final_evals.grounding")
    values = dict(task.run(init()))
    assert set(values) == {"accuracy", "AP@.5"} and all(0 <= v <= 1 for v in values.values())
    named = sum(len(made.source(("val", "test"))[i]["boxes"]) for i in range(8))
    counted = []
    for batch in made.batches(("val", "test"), 3):
        counted += grounding.grounded(jax.device_get(task._found(init(), batch)))
    assert len(counted) == named


def test_what_it_cannot_evaluate_is_named():
    made, _ = context()
    with pytest.raises(ValueError, match=r"grounding.objective='nose': no set_prediction of the run, which has found"):
        grounding.Evaluator(made, objective="nose")
    with pytest.raises(ValueError, match=r"grounding.batch_size=0: must be at least 1"):
        grounding.Evaluator(made, batch_size=0)
    other = dataclasses.replace(made, objectives={})
    with pytest.raises(base.Unfit, match="no objective of the run finds boxes"):
        grounding.Evaluator.default(other)
