"""What no example changes, such as texts of classes: computed once a step, with the gradient of all microbatches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from laws import close_trees
from tiny import MODALITIES

from configs import clip_b16
from pretrain import build
from pretrain.models import network
from pretrain.models.passes import Constant, Leaf, compute, constant, constants
from pretrain.models.tokens import Whole
from pretrain.objectives.base import BATCH, EXAMPLE
from pretrain.step import accumulate, example_keys, forward

CLASSES, SIZE = 3, 8
TEXTS = jax.tree.map(np.asarray, tiny.batch(CLASSES, 7, missing=0.0)["caption"])
NETWORK = tiny.model(("image", "caption"))
STATES = NETWORK.states


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts of three classes."""

    def __call__(self):
        return Whole(("caption",), MODALITIES)({"caption": TEXTS})


class Prompted:
    """Cross-entropy of a picture's class, row % 3, among the classes' texts."""

    coef, loss_weight = 1.0, lambda self, name: 1.0
    init = lambda self, key: {}

    def __init__(self, scope):
        self.scope = scope

    def passes(self, train):
        classes = STATES.embedding("caption", Constant(Texts()))
        return {"row": Leaf(Row()), "z": STATES.embedding("image", STATES.shown("image")), "classes": classes}

    def weights(self, data):
        return {"nll": jnp.float32(len(data["row"]))}

    def totals(self, params, outputs, *, train, run):
        logits = 4.0 * outputs["z"] @ outputs["classes"].T
        picked = jnp.take_along_axis(logits, outputs["row"][:, None] % CLASSES, 1)[:, 0]
        return {"nll": (jax.nn.logsumexp(logits, 1) - picked).sum()}


@dataclasses.dataclass(frozen=True)
class Row:
    def __call__(self, batch, keys):
        return batch["row"]


@pytest.fixture(scope="module")
def made():
    """(graphs, parameters, batch, keys)"""
    graph, params = nnx.split(NETWORK)
    batch = jax.tree.map(jnp.asarray, tiny.batch(SIZE, missing=0.0)) | {"row": jnp.arange(SIZE)}
    params = {"model": nnx.to_pure_dict(params), "objective": {"p": {}}}
    return {"online": graph}, params, batch, example_keys(0, 0, SIZE)


def gradient(made, scope, accum):
    graphs, params, batch, keys = made
    objectives = {"p": Prompted(scope)}
    if accum > 1:
        run = lambda p: (lambda loss, _, grads: (loss, grads))(*accumulate(graphs, p, objectives, batch, keys, accum))
    else:
        run = jax.value_and_grad(lambda p: forward(graphs, p, objectives, batch, keys, train=True)[0])
    return jax.jit(run)(params)


def test_which_nodes_depend_on_no_example():
    nodes = Prompted(EXAMPLE).passes(True)
    assert constant(nodes["classes"]) and not constant(nodes["z"]) and constants(nodes.values()) == [nodes["classes"]]
    assert constants([nodes["z"]]) == []


def test_the_loss_is_the_formula(made):
    batch = made[2]
    z = compute(NETWORK, {"z": Prompted(EXAMPLE).passes(True)["z"]}, batch)["z"]
    captions = compute(NETWORK, {"z": STATES.embedding("caption", STATES.shown("caption"))}, {"caption": TEXTS})["z"]
    logits = 4 * np.asarray(z, np.float64) @ np.asarray(captions, np.float64).T
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(SIZE), np.arange(SIZE) % CLASSES]
    np.testing.assert_allclose(gradient(made, EXAMPLE, 1)[0], nll.mean(), rtol=1e-5)


@pytest.mark.parametrize("scope", [EXAMPLE, BATCH])
@pytest.mark.parametrize("accum", [2, 4])
def test_accumulation_changes_nothing_and_computes_it_once(made, scope, accum, monkeypatch):
    whole, ran, run = gradient(made, scope, 1), [], network.Network.run

    def count(self, part, *args, **more):
        ran.append((part, len(jax.tree.leaves(args)[0])))
        return run(self, part, *args, **more)

    monkeypatch.setattr(network.Network, "run", count)
    loss, grads = gradient(made, scope, accum)
    np.testing.assert_allclose(loss, whole[0], rtol=1e-6)
    close_trees(grads, whole[1], 1e-5)
    assert ran.count(("project", CLASSES)) == 1 and ("project", SIZE // accum) in ran


def test_texts_of_as_many_rows_as_examples_stay_apart(made):
    """Three examples and three texts: alike in shape, but one is no example's."""
    batch = jax.tree.map(lambda x: x[:CLASSES], made[2])
    nodes = Prompted(EXAMPLE).passes(True) | {"caption": STATES.embedding("caption", STATES.shown("caption"))}
    together = compute(NETWORK, nodes, batch)
    for key, node in nodes.items():
        np.testing.assert_allclose(together[key], compute(NETWORK, {key: node}, batch)[key], atol=1e-6)


def test_texts_are_written_as_those_of_examples_are():
    run = build.parse(clip_b16.get_config("tiny"))
    context = next(iter(build.objectives(run).values())).context
    node, name = context.texts("text", ("a red bus", "two cats")), "text"
    assert node == context.texts("text", ("a red bus", "two cats")) != context.texts("text", ("a red bus",))
    encode, (field,) = build.encoder(run, train=False), [m.field for m in run.modalities if m.name == name]
    rows = [
        encode.choose({"row": 0, field.partition(":")[0]: {"en": text}}, None)[name]
        for text in ("a red bus", "two cats")
    ]
    for i, ids in enumerate(rows):
        tokens = node.make().tokens
        np.testing.assert_array_equal(tokens.ids[i, : len(ids)], ids)
        assert tokens.valid[i].sum() == len(ids)
    with pytest.raises(ValueError, match=r"modality 'image': no tokenizer writes it; texts of the run are text"):
        context.texts("image", ("a",))
