"""Two-stage retrieval: what is kept and at which threshold, by hand; what the head is shown; what is refused."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from configs.systems import rerank_rag
from pretrain import build
from pretrain.evals import base, harness, reranking
from pretrain.models.passes import compute
from pretrain.restore import init_function


@pytest.fixture(scope="module")
def made():
    c = rerank_rag.get_config("tiny")
    size = dict(dim=16, heads=2, depth=1)
    c.model.parts = rerank_rag.parts(size, size, size, embed_dim=8, how=("mean", "mean"))
    c.data.options = dict(scenes=300)
    run = build.parse(json.loads(json.dumps(c.to_dict(), default=list)))
    objectives = build.objectives(run)
    graphs, init = init_function(build.models(run, objectives), objectives, 0)
    return base.Context(run, graphs, objectives), jax.jit(init)()


def test_what_is_kept_equals_a_count_by_hand():
    score = np.array([[0.9, 0.2, 0.8, 0.7], [0.1, 0.6, 0.3, 0.4]])
    relevant = np.array([[True, False, True, True], [False, False, True, False]])
    kept = reranking.keep(score, 0.35, 2)
    assert kept.tolist() == [[True, False, True, False], [False, True, False, True]]
    found = dict(reranking.Evaluator._judged(None, "x", kept, relevant))
    assert found == {"x/precision": 0.5, "x/recall": 0.5, "x/kept": 2.0} and found["x/precision"].chance == 0.5
    assert reranking.threshold(score, relevant, 4, 0.75) == 0.7 and reranking.threshold(score, relevant, 4, 1.0) == 0.3
    assert reranking.threshold(score, relevant, 2, 1.0) == 0.8, "of two a query no more than half can be had"
    assert reranking.threshold(score, np.zeros_like(relevant), 2, 0.5) == np.inf


def test_ties_keep_no_more_than_the_most():
    assert reranking.keep(np.ones((1, 5)), 0.5, 2).sum() == 2


def test_the_head_is_shown_the_first_by_cosine(made):
    held, params = made
    task = reranking.Evaluator(held, first=4, most=2, splits=("test",))
    found = task._ranked(params, ("test",))
    network = nnx.merge(held.graph, params["model"])
    batch = next(iter(held.batches(("test",), 64)))
    keep = batch["row"] >= 0
    shown = {n: held.network.shown(n) for n in ("image", "text")}
    nodes = {n: held.network.embedding(n, leaf) for n, leaf in shown.items()}
    z = {n: np.asarray(x)[keep] for n, x in compute(network, nodes, batch).items()}
    cosine = z["text"] @ z["image"].T  # texts ask for pictures
    np.testing.assert_allclose(found["cosine"], -np.sort(-cosine, 1)[:, :4], atol=1e-6)
    queries, places = [0, 3, 7], [2, 0, 3]
    images = [int(found["near"][q, p]) for q, p in zip(queries, places)]
    together = {"image": jax.tree.map(lambda x: x[images], batch["image"]),
                "text": jax.tree.map(lambda x: x[queries], batch["text"])}  # fmt: skip
    logits = compute(
        network, {"match": held.network.over("match", shown)}, batch | together | {"row": batch["row"][:3]}
    )
    wanted = np.asarray(jax.nn.softmax(logits["match"]))[:, 1]
    np.testing.assert_allclose(found["match"][queries, places], wanted, atol=1e-5)
    assert found["all"] == keep.sum() and found["relevant"].sum() <= keep.sum()


def test_a_field_says_what_is_relevant_and_the_other_end_may_ask(made):
    held, params = made
    task = reranking.Evaluator(held, first=8, most=3, relevant="caption", query="image")
    base.check(task, held, "final_evals.reranking")
    found = dict(task.run(params))
    captions = list(held.column("caption", ("test",), "relevant").values())
    every = sum(captions.count(c) for c in captions)
    ranked = task._ranked(params, ("test",))
    assert found["queries"] == 30 and ranked["all"] == every
    assert found["first/recall"] == pytest.approx(ranked["relevant"].sum() / every)
    assert found["first/recall"].chance == pytest.approx(8 / 30)
    assert found["match/fixed/kept"] == 3 and found["match/kept"] <= 3
    assert found["cosine/at that recall/recall"] >= found["match/recall"]
    assert found["match/AUROC"].chance == 0.5 and found["match/AUROC, lower limit"] <= found["match/AUROC"]


def test_it_is_a_task_of_runs_that_match(made):
    held, _ = made
    tasks, _ = harness.make_tasks(held, ("reranking",))
    assert tasks["reranking"].splits == ("test",) and tasks["reranking"].validation == "val"


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(objective="contrastive"), r"reranking.objective='contrastive': no sampled_matching of the run, which"),
        (dict(query="sound"), r"reranking.query='sound': must be an end of the edge, image or text"),
        (dict(most=30), r"reranking.most=30: first=20, batch_size=64: must be at least 1, and most <= first"),
        (dict(recall=0.0), r"reranking.recall=0.0: must be above 0 and at most 1"),
        (dict(validation="test"), r"reranking.validation='test': splits=\('test',\) holds it"),
        (dict(first=30), r"reranking.first=30: 30 examples in val: take fewer than all"),
        (dict(relevant="topic"), r"reranking.relevant: 'topic': row 0 of 'val' has no such field; all have caption"),
    ],
)  # fmt: skip
def test_what_it_cannot_rank_is_named(made, keys, message):
    with pytest.raises(ValueError, match=message):
        reranking.Evaluator(made[0], **keys).check()
