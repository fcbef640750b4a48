"""Merkx and Frank's loss over characters: against an independent NumPy writing from letters on, a golden number; its
scale; exact accumulation, any mesh (the parts: `tests/models/parts/test_gru.py`)."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from tiny import MODALITIES

from configs.systems import grounded_sentences
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.objectives import triplet
from pretrain.objectives.base import Context, weighted_sum
from pretrain.objectives.edges import Edge
from pretrain.optim import schedule
from pretrain.phases import stages
from pretrain.step import Models, example_keys

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "systems" / "losses.npz")
B, KEYS = 16, example_keys(0, 3, 16)


def config():
    c = grounded_sentences.get_config("tiny")
    image = {n: p for n, p in c.model.parts.to_dict().items() if n in ("image_embed", "image_encoder")}
    image["image_embed"]["dim"] = 16
    image["image_encoder"] |= dict(dim=16, heads=2)
    c.model.parts = grounded_sentences.parts(image, 16, letter=5, dim=12, hidden=4)
    c.batch_size = B
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch that lacks a picture and a text)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params, noise=0.3), built.batch(20)
    batch["image"]["valid"][5], batch["text"]["valid"][7] = False, False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_sentence(p, ids):
    """Letters of one sentence → its vector of length 1."""
    x, ways = p["text_embed"]["table"][ids], []
    for way, order in (("ahead", slice(None)), ("back", slice(None, None, -1))):
        own = p["text_encoder"][way]
        (W, b), (U, c) = ((own[k]["kernel"], own[k]["bias"]) for k in ("inputs", "states"))
        h, out = np.zeros(len(U)), []
        for token in x[order]:
            a, s = np.split(token @ W + b, 3), np.split(h @ U + c, 3)
            r, z = sigmoid(a[0] + s[0]), sigmoid(a[1] + s[1])
            h = (1 - z) * np.tanh(a[2] + r * s[2]) + z * h
            out.append(h)
        ways.append(np.stack(out)[order])
    states, head = np.concatenate(ways, 1), p["text_pool"]["head"]
    scores = np.tanh(states @ head["inner"]["kernel"] + head["inner"]["bias"])
    scores = np.exp(scores @ head["outer"]["kernel"])
    vector = (scores / scores.sum(0) * states).sum(0)
    return vector / np.linalg.norm(vector)


def test_the_loss_equals_numpy():
    objectives, graphs, params, batch = made()
    node = objectives["triplet"].passes(True)["z", "image"]
    run = jax.jit(lambda p, b: evaluate([node], Models(graphs, p), draw([node], b, KEYS), KEYS)[node])
    image, p = np.float64(run(params, batch)), jax.tree.map(np.float64, params["model"])
    rows = [i for i in range(B) if i not in (5, 7)]
    ids, valid = (np.asarray(batch["text"][k]) for k in ("ids", "valid"))
    text = {i: numpy_sentence(p, ids[i][valid[i]].astype(int)) for i in rows}
    loss = 0.0
    for i in rows:
        for j in rows:
            if i != j:
                loss += max(0.0, 0.2 + image[i] @ text[j] - image[i] @ text[i])
                loss += max(0.0, 0.2 + image[i] @ text[j] - image[j] @ text[j])
    (found, _), _ = undivided()
    np.testing.assert_allclose(found, loss / len(rows) ** 2, rtol=1e-5)


def test_the_loss_is_the_golden_number():
    one = triplet.Objective(Context(MODALITIES), (Edge("image", "caption"),), negatives="sum", reduction="pairs")
    outputs = {("shown", m): tiny.shown(np.ones(6, bool)) for m in ("image", "caption")}
    for m, name in (("image", "a"), ("caption", "b")):
        x = GOLDEN[f"in/{name}"].astype(np.float64)
        outputs["z", m] = jnp.float32(x / np.linalg.norm(x, axis=1, keepdims=True))
    loss = weighted_sum(one, one.totals({}, outputs, train=True, run=None), one.weights(outputs))
    np.testing.assert_allclose(loss, GOLDEN["out/merkx"], rtol=1e-5)


def test_a_mean_over_all_pairs_is_that_over_examples_by_their_number():
    """Trap: the zeros of the diagonal are counted, so that gradients are 1/B of those of the sum over negatives."""
    outputs = {("shown", m): tiny.shown(np.arange(6) != 2) for m in ("image", "caption")}
    rng = np.random.default_rng(0)
    for m in ("image", "caption"):
        x = rng.normal(size=(6, 4))
        outputs["z", m] = jnp.float32(x / np.linalg.norm(x, axis=1, keepdims=True))

    def slope(**keys):
        one = triplet.Objective(Context(MODALITIES), (Edge("image", "caption"),), **keys)
        loss = lambda z: weighted_sum(
            one, one.totals({}, outputs | {("z", "image"): z}, train=True, run=None), one.weights(outputs)
        )
        return np.asarray(jax.grad(loss)(outputs["z", "image"]))

    pairs = slope(negatives="sum", reduction="pairs")
    assert pairs.any()
    np.testing.assert_allclose(pairs, slope(negatives="sum") / 5, rtol=1e-6)
    np.testing.assert_allclose(pairs, slope(negatives="all") * 4 / 5, rtol=1e-5, atol=1e-7)


def test_every_parameter_has_a_gradient():
    grads = undivided()[1]["model"]
    most = max(np.abs(g).max() for g in jax.tree.leaves(grads))
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert np.abs(g).max() > 1e-5 * most, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_accumulation_changes_nothing():
    laws.same_gradients(laws.gradients(*made(), KEYS, accum=2), undivided(), 2e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    roles = laws.Built(config()).roles
    laws.same_gradients(laws.gradients(*made(), KEYS, mesh="data=4,fsdp=2", roles=roles), undivided(), 2e-5)


def test_the_rate_goes_up_and_down_in_eight_cycles():
    every = [build.parse(c) for _, c in stages(grounded_sentences.get_config(""))]
    assert len(every) == 8 and all(run.steps == 108_287 // 32 * 20 for run in every)
    rate = schedule(every[3].optim, every[3].steps)
    np.testing.assert_allclose([rate(every[3].steps // 2), rate(every[3].steps)], [1e-4, 1e-6], rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda c: c.objectives.triplet.update(negatives="all"),
            "triplet.reduction='pairs': divides by all pairs of a",
        ),
        (lambda c: c.objectives.triplet.update(reduction="all"), "reduction='all': must be one of mean, sum, pairs"),
        (
            lambda c: c.update(objectives=dict(contrastive=dict(edges=grounded_sentences.EDGES, reduction="pairs"))),
            "contrastive.reduction='pairs': must be one of mean, sum",
        ),
    ],
)
def test_bad_settings_are_named(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=re.escape(message)):
        build.objectives(build.parse(c))
