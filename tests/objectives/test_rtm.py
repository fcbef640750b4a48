"""ASC-Former's losses: against an independent NumPy writing; when they are left out; what is drawn; what is refused;
accumulation, any mesh."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import rtm
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.step import Models, example_keys, forward

B, PATCHES, KEYS = 8, 64, example_keys(0, 3, 8)


def config():
    c = rtm.get_config("tiny")
    c.data.options.pictures, c.batch_size = 20, B
    c.model = rtm.model(12, 2, 1) | dict(dtype="float32")
    contrast = dict(points=60, least=20, hidden=10, dim=6, temperature=0.1)
    c.objectives = rtm.objectives(contrast=contrast, width=4, up=1, blocks=1)
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch that lacks a map, a picture and some labels)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch()
    batch["tampered"]["valid"][2] = batch["image"]["valid"][5] = False
    batch["tampered"]["pixels"][6, :16] = 255
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


@functools.cache
def outputs():
    objectives, graphs, params, batch = made()
    nodes = objectives["map_contrast"].passes(True)
    every = list(nodes.values())
    run = lambda p, b: list(map(evaluate(every, Models(graphs, p), draw(every, b, KEYS), KEYS).get, every))
    return dict(zip(nodes, jax.device_get(jax.jit(run)(params, batch))))


def places(batch):
    """{class: [(example, row, column)]}."""
    found, maps = {0: [], 1: []}, np.asarray(batch["tampered"]["pixels"])[..., 0]
    for i in set(range(B)) - {2, 5}:
        for row in range(8):
            for column in range(8):
                if (value := maps[i, 8 * row, 8 * column]) < 255:
                    found[value].append((i, row, column))
    return found


def compared(batch, points):
    """[(example, place)], [class]: of either class at most so many, those of the lowest numbers; of the other more."""
    rank, every = outputs()["places"]["rank"], places(batch)
    counts = {c: len(own) for c, own in every.items()}
    rows, classes = [], []
    for c, own in every.items():
        most = points if counts[1 - c] >= points else 2 * points - counts[1 - c]
        own = sorted(((i, 8 * row + column) for i, row, column in own), key=lambda at: rank[at])[:most]
        rows += own
        classes += [c] * len(own)
    return rows, np.asarray(classes)


def numpy_supcon(z, classes, temperature):
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        logits = z[others] @ z[i] / temperature
        log_p = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        losses.append(-np.mean([p for p, j in zip(log_p, others) if classes[j] == classes[i]]))
    return np.asarray(losses)


def test_the_losses_equal_numpy():
    """The contrast from what the encoder gives; cross-entropy of pixels is `dense`'s own (`test_dense.py`)."""
    objectives, _, params, batch = made()
    rows, classes = compared(batch, 60)
    assert 60 < (classes == 0).sum() and 20 < (classes == 1).sum() < 60 and len(rows) == 120
    p = jax.tree.map(np.float64, params["objective"]["map_contrast"])
    # Inputs lie in the order of their names in `inputs`, the picture first.
    x = np.stack([np.float64(outputs()["stream"].x[i, place]) for i, place in rows])
    y = x @ p["first"]
    y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
    y = np.maximum(y * p["norm"]["scale"] + p["norm"]["bias"], 0) @ p["last"]
    z = y / np.linalg.norm(y, axis=1, keepdims=True)
    want = 0.1 / 0.07 * numpy_supcon(z, classes, 0.1).mean()
    (loss, (terms, _)), _ = undivided()
    found = terms["map_contrast/nll"]
    assert found.weight == 120
    np.testing.assert_allclose(found.total / found.weight, want, rtol=2e-5)
    dense = terms["dense/segmentation"]
    np.testing.assert_allclose(loss, dense.total / dense.weight + 0.05 * want, rtol=2e-5)
    assert objectives["map_contrast"].coef == 0.05


@functools.cache
def learned(tampered, authentic, least):
    """(loss, weight) with so many places of either class, the others without a label."""
    objectives, graphs, params, batch = made()
    one = dataclasses.replace(objectives["map_contrast"], least=least, points=60)
    maps, classes = np.full((B, 8, 8), 255, np.uint8), [1] * tampered + [0] * authentic
    maps.reshape(-1)[: len(classes)] = classes
    target = {"pixels": maps.repeat(8, 1).repeat(8, 2)[..., None], "valid": np.ones(B, bool)}
    whole = batch | {"tampered": jax.tree.map(jnp.asarray, target)}
    run = jax.jit(lambda p, b: forward(graphs, p, {"map_contrast": one}, b, KEYS, train=True))
    loss, (terms, _) = run(params, whole)
    return float(loss), float(terms["map_contrast/nll"].weight)


@pytest.mark.parametrize("tampered, authentic, weight", [(31, 80, 0), (32, 80, 112), (80, 31, 0), (80, 32, 112)])
def test_a_class_of_few_places_leaves_the_step_out(tampered, authentic, weight):
    """Trap: one fewer than `least`; the release looks at the tampered alone, and would keep the third."""
    loss, found = learned(tampered, authentic, 32)
    assert found == weight and (loss > 0) == (weight > 0)


def test_the_published_bound_is_512():
    objective = build.objectives(build.parse(rtm.get_config("")))["map_contrast"]
    assert (objective.points, objective.least, objective.temperature, objective.base) == (1024, 512, 0.07, 0.07)
    rank = jnp.linspace(0, 1, 4096)[None]
    for tampered, kept in ((511, 0), (512, 2048), (1500, 2048), (3585, 0), (3584, 2048)):
        places = {"rank": rank, "class": jnp.arange(4096)[None] < tampered, "known": jnp.ones((1, 4096), bool)}
        assert objective.chosen(places).sum() == kept, tampered


def test_the_base_temperature_rescales():
    """Trap."""
    objectives, graphs, params, batch = made()
    doubled = dataclasses.replace(objectives["map_contrast"], base=0.14)
    run = jax.jit(lambda p, b: forward(graphs, p, {"map_contrast": doubled}, b, KEYS, train=True)[1][0])
    found, want = run(params, batch)["map_contrast/nll"], undivided()[0][1][0]["map_contrast/nll"]
    np.testing.assert_allclose(found.total, want.total / 2, rtol=1e-6)


def test_every_parameter_has_a_gradient():
    grads = undivided()[1]
    assert all(np.any(x) for x in jax.tree.leaves(grads["objective"]["map_contrast"]))
    assert all(np.any(x) for x in jax.tree.leaves(grads["model"]["encoder"]))


@pytest.mark.slow
@pytest.mark.parametrize("divided", [dict(accum=2), dict(mesh="data=4,fsdp=2")])
def test_microbatches_and_devices_change_nothing(divided):
    laws.same_gradients(laws.gradients(*made(), KEYS, **divided), undivided(), 1e-4)


contrast = lambda **keys: lambda c: c.objectives.map_contrast.update(keys)


@pytest.mark.parametrize(
    "change, message",
    [
        (contrast(label="maps"), "map_contrast.label='maps': no such map among config.labels; there are: tampered"),
        (contrast(grid="tampered"), "map_contrast.grid='tampered': must be one of `inputs`"),
        (contrast(inputs=["image", "photo"]), "map_contrast.inputs=('image', 'photo'): no part encodes them together"),
        (contrast(least=1), "least=1: must be at least 2, for a token beside each, and at most points=60"),
        (contrast(least=61), "least=61: must be at least 2"),
        (contrast(temperature=0.0), "temperature=0.0: must be positive"),
        (contrast(points=0), "points=0: must be at least 1"),
        (lambda c: c.labels[0].update(vocab_size=3), "label='tampered': needs one channel, vocab_size=2"),
        (lambda c: c.labels[0].update(shape=(60, 60, 1)), "label='tampered': its (60, 60) pixels are no multiple of"),
        (lambda c: c.modalities[1].update(field="dtc:picture"), "'dtc:picture': what is derived='dtc': there is no"),
    ],
)
def test_what_cannot_be_is_refused_before_training(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=re.escape(message)):
        build.objectives(build.parse(c))
