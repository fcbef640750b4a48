"""M3EL's losses: against independent NumPy writings; its trap; what is refused; blocks, accumulation, any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import m3el
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.objectives.targets import intra_modal
from pretrain.restore import init_function
from pretrain.step import Models, example_keys, forward

B, KEYS, EDGES = 16, example_keys(0, 3, 16), (("mention", "entity"), ("mention_image", "entity_image"))


def config():
    c = m3el.get_config("tiny")
    towers = dict(image=dict(dim=24, heads=2, depth=1), text=dict(dim=16, heads=2, depth=1))
    reads = dict(image=["mention_image", "entity_image"], text=["mention", "entity"])
    c.model.parts, c.batch_size = m3el.parts(towers, reads, 8), B
    c.objectives = m3el.objectives(dim=6)
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch that lacks a text and two pictures)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(30)
    batch["mention"]["valid"][3] = batch["entity_image"]["valid"][5] = batch["mention_image"]["valid"][7] = False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


@functools.cache
def encoded():
    """{modality: (z `[B, 8]`, tokens `[B, N, 8]`, which there are), before unit length}, from what encoders give."""
    objectives, graphs, params, batch = made()
    one = objectives["global_local"]
    names = [m for edge in EDGES for m in edge]
    nodes = [one.network.pooled(m, one.shown(m)) for m in names] + [one.network.stream(m, one.shown(m)) for m in names]
    run = lambda p, b: list(map(evaluate(nodes, Models(graphs, p), draw(nodes, b, KEYS), KEYS).get, nodes))
    found = jax.device_get(jax.jit(run)(params, batch))
    out = {}
    for m, pooled, stream in zip(names, found[:4], found[4:]):
        kernel = np.float64(params["model"]["image_project" if "image" in m else "text_project"]["linear"]["kernel"])
        own = stream.modality >= 0
        out[m] = pooled @ kernel, stream.x @ kernel, own & stream.valid
    return out


def log_softmax(x):
    x = np.float64(x) - np.max(x, -1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def norm(x, own=None):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x if own is None else x * own["scale"] + own["bias"]


def scores(edge):
    """S `[B, B]` of an edge, pair by pair; of pairs that lack nothing."""
    own = jax.tree.map(np.float64, made()[2]["objective"]["global_local"]["~".join(edge)])
    linear = lambda x, layer: x @ own[layer]["kernel"] + own[layer].get("bias", 0.0)
    (za, xa, there), (zb, xb, here) = (encoded()[m] for m in edge)
    za, zb = norm(za, own["whole_norm"]), norm(zb, own["whole_norm"])
    out = np.full((B, B), np.nan)
    for i in np.flatnonzero(there.any(1)):
        tokens = norm(xa[i][there[i]], own["token_norm"])
        for j in np.flatnonzero(here.any(1)):
            q = linear(norm(xb[j][here[j]], own["token_norm"]), "query")
            attention = np.exp(log_softmax(q @ linear(tokens, "key").T / 6**0.5))
            context = norm((attention @ linear(tokens, "value")).mean(0), own["norm"])
            out[i, j] = (za[i] @ zb[j] + linear(zb[j], "whole") @ context) / 2
    return out


def cross_entropy(s, both):
    return -np.mean(np.diag(log_softmax(s[np.ix_(both, both)])))


def intra(edge, both, weight=0.8, drop=False, t=0.03):
    """In loops over rows: logits across, then those of the row's own side."""
    z = [x[both] / np.linalg.norm(x[both], axis=1, keepdims=True) for x, *_ in (encoded()[m] for m in edge)]
    total = 0.0
    for a, b in (z, z[::-1]):
        for i in range(len(a)):
            more = [0.0 if i == j else weight * (a[i] @ a[j]) / t for j in range(len(a)) if not (drop and i == j)]
            total -= log_softmax(np.concatenate([a[i] @ b.T / t, more]))[i]
    return total / 2 / len(both)


def present(edge):
    return np.flatnonzero(np.logical_and(*(encoded()[m][2].any(1) for m in edge)))


def test_the_losses_equal_numpy():
    s, want = [scores(edge) for edge in EDGES], {}
    for edge, of in zip(EDGES, s):
        name, both = "~".join(edge), present(edge)
        want[f"global_local/{name}"] = cross_entropy(of, both)
        want[f"contrastive/{name}"] = intra(edge, both)
    every = np.intersect1d(*map(present, EDGES))
    assert len(every) == B - 3
    want["global_local/all"] = cross_entropy(sum(s) / 2, every)
    (loss, (terms, _)), _ = undivided()
    assert set(terms) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=3e-5, err_msg=name)
    across = [value for name, value in want.items() if name.startswith("contrastive")]
    np.testing.assert_allclose(loss, sum(want.values()) - sum(across) / 2, rtol=3e-5)


def term(target, temperature):
    _, graphs, params, batch = made()
    one = dataclasses.replace(made()[0]["contrastive"], target=target, temperature=temperature)
    run = jax.jit(lambda p, b: forward(graphs, p, {"contrastive": one}, b, KEYS, train=True)[1][0])
    found = run(params, batch)["contrastive/" + "~".join(EDGES[0])]
    return found.total / found.weight


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_what_is_dropped_and_what_is_zero_differ_by_a_negative(temperature):
    """Trap: the release sets a row's product with itself to 0, where it stays as exp(0); at .03 next to none."""
    both = present(EDGES[0])
    zero, drop = (term(intra_modal.Target(own=own), temperature) for own in ("zero", "drop"))
    np.testing.assert_allclose(zero, intra(EDGES[0], both, t=temperature), rtol=3e-5)
    np.testing.assert_allclose(drop, intra(EDGES[0], both, drop=True, t=temperature), rtol=3e-5)
    half = term(intra_modal.Target(weight=0.4), temperature)
    np.testing.assert_allclose(half, intra(EDGES[0], both, weight=0.4, t=temperature), rtol=3e-5)
    assert 0.01 < zero - drop < 0.1 if temperature == 1 else zero - drop < 1e-5


def test_every_part_has_a_gradient():
    grads = undivided()[1]
    for part, tree in {**grads["model"], **grads["objective"]["global_local"]}.items():
        assert not jax.tree.leaves(tree) or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part


@pytest.mark.slow
@pytest.mark.parametrize(
    "block, divided", [(0, dict(accum=2)), (4, {}), (0, dict(mesh="data=4,fsdp=2")), (2, dict(mesh="data=4,fsdp=2"))]
)
def test_microbatches_blocks_and_devices_change_nothing(block, divided):
    objectives = {n: dataclasses.replace(o, block=block) for n, o in made()[0].items()}
    laws.same_gradients(laws.gradients(objectives, *made()[1:], KEYS, **divided), undivided(), 3e-4)


def of_queries(c):
    c.model.parts.text_pool.update(how="queries", pool_queries=2)


late = dict(objective="late_interaction", edges=m3el.EDGES, target=dict(target="intra_modal"))
swaps = late | dict(target=dict(target="negatives"))
links, across = lambda c: c.objectives.global_local.update, lambda c: c.objectives.contrastive.target.update


@pytest.mark.parametrize(
    "change, message",
    [
        (of_queries, r"global_local\.edges='mention': the projection of 'mention' fits no single token"),
        (lambda c: links(c)(dim=0), r"global_local\.dim=0: dim must be at least 1"),
        (lambda c: links(c)(block=-1), r"global_local\.block=-1: .*block not negative"),
        (lambda c: links(c)(branches=[dict(name="x", part="text_project")]), "branches"),
        (lambda c: across(c)(weight=0.0), r"contrastive\.target\.weight=0\.0: must be positive; leave the target out"),
        (lambda c: across(c)(own="keep"), r"contrastive\.target\.own='keep': must be one of zero, drop"),
        (lambda c: c.objectives.update(late=late), r"interaction\.target='intra_modal': compares embeddings"),
        (lambda c: c.objectives.update(late=swaps), r"interaction\.target='negatives': compares embeddings"),
    ],
)
def test_what_cannot_be_is_refused_before_training(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=message):
        run = build.parse(c)
        init_function(build.models(run, build.objectives(run)), build.objectives(run), 0)
