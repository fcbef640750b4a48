"""Link prediction: ranks against a NumPy writing with sets, in any chunks; the filter; what is refused."""

import functools

import jax
import laws
import numpy as np
import pytest
import tiny
from toy_run import write_run

from configs.systems import hypercomplex
from data_pipeline.sources.emoji_graph import Source, graph
from pretrain import build
from pretrain.evals import harness
from pretrain.evals.base import Context, check
from pretrain.evals.links import Evaluator

R, SOME = 3, 24  # relations; how many triples are asked


@functools.cache
def made(inverse=True):
    c = hypercomplex.get_config("tiny")
    c.model.parts = hypercomplex.parts(dict(words=256), 4)
    c.objectives = dict(links=dict(views=["words"], dim=16, std=0.5, inverse=inverse))
    built = laws.Built(c)
    return Context(built.run, built.graphs, built.objectives), tiny.noisy(built.params)


def few(monkeypatch):
    """Asks the first triples of `test` alone."""
    monkeypatch.setattr(Source, "__len__", lambda self: SOME if self._splits == ("test",) else real(self))


real = Source.__len__


def scores(context, params, h, r):
    one, own = context.objectives["links"], params["objective"]["links"]
    (first, last) = (params["model"]["words_mlp"]["layers"]["linears"][i] for i in range(2))
    view = np.tanh(graph().views["words"] @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]
    table = np.concatenate([own["entity"], view], 1)
    return np.asarray(one.scores(own, jax.numpy.asarray(table), np.asarray([h]), np.asarray([r])))[0]


@pytest.mark.parametrize("drop_head", [False, True])
def test_ranks_are_filtered(drop_head, monkeypatch):
    """Trap: the release also drops the entity that is asked from."""
    few(monkeypatch)
    context, params = made()
    triples = graph().triples
    true = {tuple(t) for rows in triples.values() for t in rows.tolist()}
    want = {"tail": [], "head": []}
    for h, r, t in triples["test"][:SOME].tolist():
        for name, start, relation, end in (("tail", h, r, t), ("head", t, r + R, h)):
            also = {b if name == "tail" else a for a, q, b in true if q == r and (a if name == "tail" else b) == start}
            out = (also | ({start} if drop_head else set())) - {end}
            found = scores(context, params, start, relation)
            want[name].append(1 + sum(found[i] >= found[end] for i in range(len(found)) if i not in out | {end}))
    for chunk in (16384, 1000):
        made_of = dict(splits=("test",), drop_head=drop_head, chunk=chunk, batch_size=10)
        found = dict(Evaluator(context, **made_of).run(params))
        for name, rank in want.items():
            np.testing.assert_allclose(found[f"{name}/MRR"], np.mean(1 / np.asarray(rank)), rtol=1e-6)
            np.testing.assert_allclose(found[f"{name}/Hits@10"], np.mean(np.asarray(rank) <= 10), rtol=1e-6)
        assert found["triples"] == SOME and 0 < found["MRR"].chance < 0.01
        np.testing.assert_allclose(found["MRR"], (found["tail/MRR"] + found["head/MRR"]) / 2, rtol=1e-6)


def test_the_filter_and_the_dropped_head_change_ranks(monkeypatch):
    few(monkeypatch)
    context, params = made()
    mrr = lambda **more: dict(Evaluator(context, splits=("test",), **more).run(params))
    plain, fewer = mrr(), mrr(known=("test",))
    assert plain["MRR"] > fewer["MRR"] and plain["MRR"].chance > fewer["MRR"].chance
    assert mrr(drop_head=True)["MRR"].chance > plain["MRR"].chance


def test_what_scores_all_alike_is_last(monkeypatch):
    few(monkeypatch)
    context, params = made()
    same = jax.tree.map(np.zeros_like, params)
    assert dict(Evaluator(context, splits=("test",)).run(same))["Hits@10"] == 0


def test_without_inverse_relations_tails_alone_are_ranked(monkeypatch):
    few(monkeypatch)
    context, params = made(False)
    found = dict(Evaluator(context, splits=("test",)).run(params))
    assert "head/MRR" not in found and found["MRR"] == found["tail/MRR"]


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(objective="link"), r"links\.objective='link': no `links` of the run, which has links"),
        (dict(at=(0, 1)), r"links\.at=\(0, 1\): it, batch_size and chunk must be at least 1"),
        (dict(known=("train",)), r"links\.known=\('train',\): the triples of 'val', which are asked for, are true"),
        (dict(splits=("tests",), known=("tests",)), r"x\.splits=\('tests',\): split="),
        (dict(splits=("entities",), known=("entities",)), r"x\.splits=\('entities',\): modality 'head': field='head'"),
    ],
)
def test_what_cannot_be_is_refused_before_training(keys, message):
    with pytest.raises(ValueError, match=message):
        context = made()[0]
        check(Evaluator(context, **keys), context, "x")


def test_a_checkpoint_of_modules_in_lists_has_an_untrained_network_beside_it(tmp_path, monkeypatch):
    few(monkeypatch)
    c = hypercomplex.get_config("tiny")
    c.model.parts, c.objectives = hypercomplex.parts(dict(words=256), 4), dict(links=dict(views=["words"], dim=16))
    c.final_evals.links.splits = ["test"]
    write_run(c, tmp_path)
    restored, context = harness.open_run(tmp_path)
    found = harness.evaluate(restored, harness.make_tasks(context, ())[0])["links/MRR"]
    assert 0 < found["value"] != found["untrained"] > 0


def test_the_tiny_run_names_the_task():
    run = build.parse(hypercomplex.get_config("tiny"))
    context = Context(run, None, build.objectives(run))
    ((_, task),) = build.evaluators(run.final_evals, context, "final_evals").values()
    check(task, context, "x")
    assert task.drop_head and len(task.triples(task.splits)) == 789
