"""VG-BERT's loss: against an independent NumPy writing; its trap; what is refused; blocks, accumulation, any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import vg_bert
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.restore import init_function
from pretrain.step import Models, example_keys, forward

B, KEYS = 16, example_keys(0, 3, 16)


def config(**changes):
    c = vg_bert.get_config("tiny")
    towers = dict(image=dict(dim=24, heads=2, depth=1), text=dict(dim=16, heads=2, depth=1))
    c.model.parts, c.batch_size = vg_bert.parts(towers, 8), B
    c.model.parts["image_embed"]["cls"] = True  # of which the loss knows nothing
    c.objectives = vg_bert.objectives(**changes)
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch that lacks a text and a picture)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(30)
    batch["text"]["valid"][3], batch["image"]["valid"][5] = False, False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def with_changes(**changes):
    (name, one), *_ = made()[0].items()
    return {name: dataclasses.replace(one, **changes)}


def expected(scale=1.0, normalise=False):
    """The loss from what the encoders give, in loops over pairs; scale: of the projections."""
    objectives, graphs, params, batch = made()
    network = objectives["late_interaction"].network
    nodes = [network.stream(m, network.shown(m)) for m in ("image", "text")]
    run = lambda p, b: list(map(evaluate(nodes, Models(graphs, p), draw(nodes, b, KEYS), KEYS).get, nodes))
    found = {}
    for m, stream in zip(("image", "text"), jax.device_get(jax.jit(run)(params, batch))):
        own = params["model"][f"{m}_project"]["linear"]
        z = scale * (np.float64(stream.x) @ np.float64(own["kernel"]) + np.float64(own["bias"]))
        found[m] = z / np.linalg.norm(z, axis=-1, keepdims=True) if normalise else z
        found[m, "there"] = stream.valid & (stream.modality >= 0)
    both = [i for i in range(B) if i not in (3, 5)]
    s = np.zeros((len(both), len(both)))
    for i, picture in enumerate(both):
        for j, caption in enumerate(both):
            words = found["text"][caption][found["text", "there"][caption]]
            patches = found["image"][picture][found["image", "there"][picture]]
            s[i, j] = np.mean([max(patch @ word for patch in patches) for word in words])
    e = np.exp((s - s.max()) / 0.1)
    return -np.mean(np.log(np.diag(e) / e.sum(0)) + np.log(np.diag(e) / e.sum(1)))


def term(objectives, params=None):
    graphs, batch = made()[1], made()[3]
    run = jax.jit(lambda p, b: forward(graphs, p, objectives, b, KEYS, train=True)[1][0])
    (found,) = run(made()[2] if params is None else params, batch).values()
    return found.total / found.weight


def test_the_loss_equals_numpy():
    (loss, _), _ = undivided()
    np.testing.assert_allclose(loss, expected(), rtol=2e-5)


def test_it_grows_with_the_length_of_what_is_learned_unless_that_is_taken_out():
    """Trap: no normalisation, so that the scale of the logits is the square of that of the features."""
    model = made()[2]["model"]
    longer = {n: jax.tree.map(lambda x: 1.5 * x, p) if n.endswith("project") else p for n, p in model.items()}
    longer = made()[2] | {"model": longer}
    objectives = made()[0]
    np.testing.assert_allclose(term(objectives, longer), expected(scale=1.5), rtol=5e-5)
    unit = with_changes(normalise=True)
    np.testing.assert_allclose(term(unit), expected(normalise=True), rtol=2e-5)
    np.testing.assert_allclose(term(unit, longer), expected(normalise=True), rtol=2e-5)
    assert abs(expected(scale=1.5) - expected()) > 0.1


def test_the_first_of_an_edge_finds_and_the_second_asks():
    (edge,) = made()[0]["late_interaction"].edges
    turned = with_changes(edges=(dataclasses.replace(edge, a="text", b="image"),))
    assert abs(term(turned) - term(made()[0])) > 1e-3


def test_every_part_has_a_gradient():
    for part, tree in undivided()[1]["model"].items():
        assert not jax.tree.leaves(tree) or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part


@pytest.mark.slow
@pytest.mark.parametrize(
    "block, divided", [(0, dict(accum=2)), (4, {}), (0, dict(mesh="data=4,fsdp=2")), (1, dict(mesh="data=4,fsdp=2"))]
)
def test_microbatches_blocks_and_devices_change_nothing(block, divided):
    objectives = with_changes(block=block)
    laws.same_gradients(laws.gradients(objectives, *made()[1:], KEYS, **divided), undivided(), 2e-4)


def pooled_by_queries(c):
    c.model.parts.text_pool.update(how="queries", pool_queries=2)


@pytest.mark.parametrize(
    "change, message",
    [
        (pooled_by_queries, r"late_interaction\.edges='text': the projection of 'text' fits no single token"),
        (
            lambda c: c.objectives.late_interaction.update(temperature=0.0),
            r"late_interaction\.temperature=0\.0: must be",
        ),
        (lambda c: c.objectives.late_interaction.update(edges=[]), r"late_interaction\.edges=\(\): list at least one"),
        (
            lambda c: c.objectives.late_interaction.update(branches=[dict(name="x", part="text_project")]),
            "late_interaction.branches=.*: leave them out: tokens of modalities",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_training(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=message):
        run = build.parse(c)
        init_function(build.models(run, build.objectives(run)), build.objectives(run), 0)
