"""GAP's losses over branches of a skeleton: against an independent NumPy writing; the part that selects tokens; exact
accumulation, any mesh (the targets and their gradients: `test_targets.py`)."""

import functools
import re

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import gap_action
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.restore import init_function
from pretrain.step import Models, example_keys

B, TEXTS = 16, ("name", *gap_action.BODY)


def config():
    c = gap_action.get_config("tiny")
    size = dict(dim=16, heads=2, depth=1)
    c.model.parts, c.batch_size = gap_action.parts(size, size, gap_action.AREAS, 12), B
    return c


@functools.cache
def made():
    """(objectives, graph, parameters that are not trivial, a batch that lacks a picture, a text and a label)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(30)
    batch["action"]["ids"][:, 0] = np.arange(B) % 6
    batch["hand"]["valid"][3], batch["skeleton"]["valid"][5], batch["action"]["valid"][7] = False, False, False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


KEYS = example_keys(0, 3, B)


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def evaluated(nodes):
    _, graph, params, batch = made()
    run = jax.jit(lambda p, b: list(map(evaluate(nodes, Models(graph, p), draw(nodes, b, KEYS), KEYS).get, nodes)))
    return jax.device_get(run(params, batch))


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.slow
def test_the_losses_equal_numpy():
    """The whole of the training loss from what the towers give: means over areas, projections, loops over pairs."""
    objectives, _, params, batch = made()
    whole = objectives["whole"]
    states = whole.context.network
    streams = evaluated([states.stream(m, whole.shown(m)) for m in ("skeleton", *TEXTS)])
    p = jax.tree.map(np.float64, params)
    body, texts = streams[0].x.astype(np.float64), dict(zip(TEXTS, streams[1:]))
    project = lambda x, part: x @ p["model"][f"{part}_project"]["linear"]["kernel"]
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    ids, labelled = np.asarray(batch["action"]["ids"])[:, 0], np.arange(B) != 7

    want = {}
    for name, said in (("whole", "name"), *((part, part) for part in gap_action.BODY)):
        at = gap_action.AREAS.get(name, range(64))
        f = unit(project(body[:, list(at)].mean(1), "body" if name == "whole" else name))
        counted = texts[said].valid[..., None]
        x = unit(project((texts[said].x * counted).sum(1) / np.maximum(counted.sum(1), 1), "text"))
        there = [i for i in range(B) if i != 5 and not (said == "hand" and i == 3)]
        scale, loss = float(p["objective"][name]["scale"]), 0.0
        for a, b in ((f, x), (x, f)):
            for i in there:
                same = np.asarray([i == j or (ids[i] == ids[j] and labelled[i] and labelled[j]) for j in there])
                log_t = log_softmax(10.0 * same)
                loss += 0.5 * (np.exp(log_t) * (log_t - log_softmax(scale * b[there] @ a[i]))).sum()
        want[f"{name}/{objectives[name].edges[0].name}"] = loss / len(there)
    raw = project(body.mean(1), "body")
    scores = log_softmax(raw @ p["objective"]["action"]["kernel"] + p["objective"]["action"]["bias"])
    known = [i for i in range(B) if i not in (5, 7)]
    want["action/skeleton"] = np.mean([-scores[i, ids[i]] for i in known])

    (loss, (terms, _)), _ = undivided()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=3e-5, err_msg=name)
    branches = [value for name, value in want.items() if not name.startswith("action")]
    assert len(branches) == 5
    np.testing.assert_allclose(loss, want["action/skeleton"] + 0.8 * np.mean(branches), rtol=3e-5)


def test_every_branch_has_a_scale_of_its_own_and_every_parameter_a_gradient():
    """From log(1 / .07), which is no logarithm of it."""
    run = build.parse(config())
    fresh = {name: o.init(None) for name, o in build.objectives(run).items() if name != "action"}
    assert set(fresh) == {"whole", *gap_action.BODY}
    grads = undivided()[1]
    moved = [float(grads["objective"][name]["scale"]) for name in fresh]
    assert len(set(moved)) == 5 and all(moved)
    for part, tree in grads["model"].items():
        assert not jax.tree.leaves(tree) or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part


def test_a_branch_sees_what_its_tokens_say_and_is_told_by_its_name():
    """Trap: the release knows branches by their index."""
    objectives, *_, batch = made()
    names = list(gap_action.BODY)
    nodes = [objectives[part].passes(True)["z", f"{part} joints"] for part in names]
    assert [node.part for node in nodes] == [f"{part}_project" for part in names]
    tokens = evaluated([node.args[0].args[0] for node in nodes])
    for part, stream in zip(names, tokens):
        assert (stream.valid[0].nonzero()[0] == sorted(gap_action.AREAS[part])).all()
        assert not stream.valid[5].any() and np.asarray(batch["skeleton"]["valid"])[5] == 0


def test_places_recur_with_every_frame():
    """Of the published size: the joints of a part in all 16 steps of time."""
    run = build.parse(gap_action.get_config(""))
    c = build.states(run)["head_tokens"]
    assert (c.period, c.places) == (25, (2, 3, 20))
    at = np.arange(16 * 25)
    assert np.isin(at % c.period, c.places).sum() == 48


@pytest.mark.slow
def test_accumulation_changes_nothing():
    laws.same_gradients(laws.gradients(*made(), KEYS, accum=2), undivided(), 2e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    roles = laws.Built(config()).roles
    laws.same_gradients(laws.gradients(*made(), KEYS, mesh="data=4,fsdp=2", roles=roles), undivided(), 2e-5)


def branch(**changes):
    return lambda c: c.objectives.head.branches[0].update(changes)


@pytest.mark.parametrize(
    "change, message",
    [
        (branch(part="neck_project"), "contrastive.branches[0].part='neck_project': the network has no such part"),
        (branch(part="head_pool"), "branches[0].part='head_pool': name a part that gives an embedding of one"),
        (branch(part="text_project"), "branches[0].part='text_project': name a part that gives an embedding of one"),
        (branch(name="foot"), "contrastive.branches=['foot']: give each a name that no other and no modality has"),
        (branch(name="arm joints"), "contrastive: no modality 'head joints'; the run has skeleton"),
        (lambda c: c.model.parts.head_tokens.update(places=[64]), "'head_tokens': places=(64,): list some of 0…63"),
        (lambda c: c.model.parts.head_tokens.update(places=[]), "'head_tokens': places=(): list some of 0…63"),
        (lambda c: c.model.parts.head_tokens.update(period=8), "list some of 0…7"),
        (lambda c: c.model.parts.head_tokens.update(period=-1), "period=-1: must not be negative"),
        (lambda c: c.model.parts.head_tokens.update(dim=8), "dim=8: 'body_encoder' gives tokens of width 16"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=re.escape(message)):
        run = build.parse(c)
        init_function(build.models(run, objectives := build.objectives(run)), objectives, 0)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(target=dict(target="teacher", model="old")), "branches='given': leave them out beside `target.model`"),
        (None, "objectives.matryoshka.base.branches: leave them out: modalities alone are nested"),
    ],
    ids=["teacher", "matryoshka"],
)
def test_what_knows_modalities_alone_refuses_branches(change, message):
    c = config()
    c.references = dict(old=dict(reference="snapshot"))
    head = c.objectives.head.to_dict()
    c.objectives = dict(one=head | change if change else dict(objective="matryoshka", base=head, widths=[4]))
    with pytest.raises(ValueError, match=message):
        build.objectives(build.parse(c))
