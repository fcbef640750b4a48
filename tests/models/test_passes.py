"""Nodes: each is computed once however many ask, calls of equal shapes run as one and give what each gives alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import MODALITIES

from data_pipeline.spec import Modality
from pretrain.models.passes import Leaf, call, compute, draw, evaluate, leaves, ordered
from pretrain.models.tokens import Whole
from pretrain.ops.keys import named

HALF = (0.5, 0.5, 0.5)
PHOTO = Modality("photo", "pixels", (8, 8, 3), "photo", patch=4, mean=HALF, std=HALF, targets=False)
OTHER = tiny.replace(MODALITIES[0], name="other")
EVERY = (*MODALITIES, OTHER, PHOTO)
NAMES = ("image", "other", "photo", "caption")
DATA = tiny.batch(3, modalities=EVERY, missing=0.0)
NETWORK = tiny.model(embedded=NAMES, modalities=EVERY)
STATES = NETWORK.states


def shown(name):
    return Leaf(Whole((name,), EVERY))


@dataclasses.dataclass(frozen=True)
class Number:
    """The corruption that gives one number for all; counts how often it is asked for."""

    value: float
    log: list = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, batch, keys):
        self.log.append(self.value)
        return {"number": jnp.full(len(batch["row"]), self.value), "others": keys}


class Counted:
    """A network that writes down what of it is run: (part, rows, whether with layers)."""

    def __init__(self, network=NETWORK):
        self.network, self.log = network, []

    def run(self, part, *args, layers=False, **more):
        self.log.append((part, len(jax.tree.leaves(args)[0]), layers))
        return self.network.run(part, *args, layers=layers, **more)

    def reads_layers(self, node):
        return self.network.reads_layers(node)

    def of(self, part):
        return [row[1:] for row in self.log if row[0] == part]


def run(*nodes, keys=None, layers=()):
    counted = Counted()
    return evaluate(nodes, {"online": counted}, draw(nodes, DATA, keys), keys, layers=layers), counted


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


def test_each_node_is_computed_once():
    """What was built twice is one node, and what several read is below each of them the same."""
    z, again = (STATES.embedding("image", shown("image")) for _ in range(2))
    assert z == again and z is not again
    values, counted = run(z, again, STATES.pooled("image", shown("image")), STATES.stream("image", shown("image")))
    assert counted.log == [(part, 3, False) for part in ("embed", "encoder", "pool", "project")]
    assert len(values) == 5 and leaves(values) == [shown("image")]
    assert ordered([z, *z.args]) == [shown("image"), *z.args[0].args[0].args, z.args[0].args[0], *z.args, z]


def test_equal_corruptions_are_drawn_once():
    log = []
    data = draw([call("a", Leaf(Number(0.5, log), "number")), Leaf(Number(0.5, log), "others")], DATA, None)
    assert log == [0.5] and list(data) == [Number(0.5)]
    draw([Leaf(Number(0.5, log)), Leaf(Number(0.25, log))], DATA, None)
    assert log == [0.5, 0.5, 0.25]


def test_calls_of_equal_shapes_run_as_one_and_give_what_each_gives_alone():
    """Pixels of the batch have no place where tokens of the same number are embedded."""
    nodes = {n: STATES.embedding(n, shown(n)) for n in NAMES}
    values, counted = run(*nodes.values())
    # A picture's 16 tokens twice, 4 patches, 10 words; what is pooled of them has one shape.
    assert sorted(counted.of("embed")) == sorted(counted.of("encoder")) == [(3, False), (3, False), (6, False)]
    assert sorted(counted.of("pool")) == [(3, False), (3, False), (6, False)]
    assert counted.of("project") == [(3, False)] * 4, "each modality has its own projection"
    assert len({np.asarray(values[node]).tobytes() for node in nodes.values()}) == 4
    for node in nodes.values():
        alone, _ = run(node)
        close(values[node], alone[node])


def test_what_ran_together_has_its_own_numbers():
    """Of two earlier layers of one stream, each is its own."""
    early = [Leaf(Number(v), "number") for v in (0.0, 0.6, 0.9)]
    network = tiny.model(embedded=NAMES, modalities=EVERY, encoder_depth=5)
    nodes = [network.states.embedding("image", shown("image"), e) for e in early]
    together = compute(network, dict(enumerate(nodes)), DATA)
    for i, node in enumerate(nodes):
        close(together[i], compute(network, {"z": node}, DATA)["z"])
    assert np.abs(together[0] - together[1]).max() > 1e-3 < np.abs(together[1] - together[2]).max()


def test_options_keep_calls_apart():
    stream = STATES.stream("image", shown("image")).args[0]
    keys = jax.random.split(jax.random.key(0), 3)
    nodes = [call("encoder", stream, drop=rate) for rate in (0.2, 0.4, None)]
    assert nodes[2] == STATES.stream("image", shown("image")), "an option that is None is none"
    _, counted = run(*nodes, keys=keys)
    assert counted.of("encoder") == [(3, False)] * 3


def test_layers_are_given_where_one_wants_them():
    image, depth = (STATES.stream(n, shown(n)) for n in ("image", "depth"))
    values, counted = run(image, depth)
    assert values[image].layers is None and {layers for _, layers in counted.of("encoder")} == {False}
    values, counted = run(image, depth, layers=(image,))
    assert values[image].layers.shape == (3, 2, 16, 16) and values[depth].layers is None
    assert sorted(counted.of("encoder")) == [(3, False), (3, True)]
    # An earlier layer is read of the pass that gives the last, which needs no second one.
    early = STATES.pooled("image", shown("image"), Leaf(Number(0.0), "number"))
    values, counted = run(early, depth)
    assert values[early.args[0].args[0]].layers.shape == (3, 2, 16, 16)
    assert sorted(counted.of("embed")) == [(3, False)] * 2
    assert {layers for _, layers in counted.of("embed")} == {False}


def test_what_is_drawn_follows_the_name_of_its_noise():
    """Equal streams dropped under two names differ; each equals that of a pass of its own, whatever else runs."""
    stream, keys = STATES.stream("image", shown("image")).args[0], jax.random.split(jax.random.key(1), 3)
    one, two, plain = (call("encoder", stream, noise=noise, drop=0.9) for noise in ("one", "two", ""))
    values, counted = run(one, two, plain, keys=keys)
    assert counted.of("encoder") == [(9, False)], "they run as one"
    embedded = values[stream]
    for node in (one, two, plain):
        own = named(keys, "part", "online", "encoder", *filter(None, (node.noise,)))
        close(values[node].x, NETWORK.run("encoder", embedded, keys=own, drop=0.9).x)
    rows = {np.asarray(values[n].x).tobytes() for n in (one, two, plain)}
    assert len(rows) == 3
    again, _ = run(one, keys=keys)
    close(again[one].x, values[one].x)


def test_models_have_their_own_parameters():
    other = tiny.model(embedded=NAMES, modalities=EVERY, seed=1)
    mine = call("embed", shown("image"))
    theirs = dataclasses.replace(mine, model="teacher")
    values = evaluate([mine, theirs], {"online": NETWORK, "teacher": other}, draw([mine], DATA, None))
    close(values[theirs].x, compute(other, {"x": mine}, DATA)["x"].x)
    assert np.abs(values[theirs].x - values[mine].x).max() > 1e-3


class Moved(Counted):
    """What an encoder gives is multiplied by a vector, by which there is a gradient."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def run(self, part, *args, **more):
        out = super().run(part, *args, **more)
        return out._replace(x=out.x * self.by) if part == "encoder" else out


@pytest.mark.parametrize("name", ["image", "photo"])
def test_gradients_of_what_ran_together_are_those_alone(name):
    nodes = {n: STATES.embedding(n, shown(n)) for n in NAMES}

    def gradient(*asked):
        def value(by):
            values = evaluate(asked, {"online": Moved(by)}, draw(asked, DATA, None))
            return (values[nodes[name]] * jnp.arange(8)).sum()

        return jax.jit(jax.grad(value))(jnp.ones(16))

    alone = gradient(nodes[name])
    assert np.abs(alone).max() > 1e-3
    close(gradient(*nodes.values()), alone)
