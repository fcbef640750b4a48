"""Learned queries: what they see, what every layer gives, and that none of them is another."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from pretrain.models.network import Config, Network
from pretrain.models.parts import embed, encoder, query_decoder
from pretrain.models.passes import Leaf, compute
from pretrain.models.stream import NO_MODALITY
from pretrain.models.tokens import Whole
from pretrain.parameters import Roles, variables

NAMES = ("image", "caption")


def network(**changes) -> Network:
    values = dict(dim=16, depth=3, heads=2, queries=5) | changes
    parts = dict(
        embed=embed.Config(dim=16), encoder=encoder.Config(("embed",), 16, 1, 2),
        queries=query_decoder.Config(("encoder",), **values),
    )  # fmt: skip
    return Network(Config(parts, dtype="float32"), tiny.MODALITIES, (), nnx.Rngs(0))


def found(net, batch):
    """{layer: Stream}, the last under "last", and the encoder's."""
    leaf = Leaf(Whole(NAMES, tiny.MODALITIES))
    last = net.states.chain("queries", leaf)
    nodes = {i: net.states.call("queries", last, layer=i) for i in range(3)}
    return compute(net, nodes | {"last": last, "encoded": net.states.chain("encoder", leaf)}, batch)


def test_every_layer_is_normalised_alike_and_the_last_is_what_it_gives():
    net, batch = network(), tiny.batch(6, missing=0.3)
    net.queries.norm.scale[...] = 1 + jnp.arange(16.0)
    out = found(net, batch)
    assert out["last"].x.shape == (6, 5, 16) and out["last"].layers.shape == (6, 3, 5, 16)
    np.testing.assert_array_equal(out[2].x, out["last"].x)
    for i in range(3):
        raw = np.asarray(out["last"].layers[:, i], np.float64)
        raw = (raw - raw.mean(-1, keepdims=True)) / np.sqrt(raw.var(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(out[i].x, raw * np.arange(1, 17), rtol=1e-4, atol=1e-4)
    assert (np.asarray(out["last"].modality) == NO_MODALITY).all() and out["last"].valid.all()


def test_the_first_layers_know_nothing_of_the_later():
    net, batch = network(), tiny.batch(6, missing=0.0)
    before = found(net, batch)
    kernel = net.queries.blocks.mlp.fc2.kernel
    kernel[...] = kernel[...].at[2].multiply(3.0)  # of the last block
    after = found(net, batch)
    np.testing.assert_array_equal(after[1].x, before[1].x)
    assert (np.abs(after["last"].x - before["last"].x) > 1e-3).any()


def test_queries_have_no_order_and_see_what_is_there_alone():
    net, batch = network(), tiny.batch(6, missing=0.3)
    before, order = found(net, batch)["last"].x, np.array([3, 1, 4, 0, 2])
    filled = {k: v for k, v in batch.items() if k == "row"} | {
        name: batch[name] | {"ids": np.where(batch[name]["valid"], batch[name]["ids"], 7)} for name in NAMES
    }
    np.testing.assert_allclose(found(net, filled)["last"].x, before, atol=1e-5)
    net.queries.queries[...] = net.queries.queries[...][order]
    np.testing.assert_allclose(found(net, batch)["last"].x, before[:, order], atol=1e-5)


def test_positions_are_added_to_what_the_queries_look_at():
    net, batch = network(depth=1), tiny.batch(2, missing=0.0)
    leaf = Leaf(Whole(NAMES, tiny.MODALITIES))
    encoded = compute(net, {"x": net.states.chain("encoder", leaf)}, batch)["x"]
    run = lambda stream: net.run("queries", stream).x
    bare = run(encoded._replace(x=encoded.x + encoded.placed, placed=None))
    np.testing.assert_allclose(run(encoded), bare, atol=1e-6)
    assert (np.abs(run(encoded._replace(placed=None)) - bare) > 1e-3).any()


def test_layer_decay_is_for_encoders():
    roles = Roles(variables(network()))
    assert {roles[f"queries/{name}"].depth for name in ("queries", "blocks/attn/qkv/kernel")} == {0}


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(queries=0), "'queries': queries=0: must be at least 1"),
        (dict(depth=0), "'queries': depth=0: must be at least 1"),
        (dict(causal=True), "'queries': causal=True: an encoder has it"),
        (dict(registers=2), "'queries': registers=2: an encoder has it"),
        (dict(dim=8), "'queries': dim=8: 'encoder', which it reads, gives tokens of width 16"),
    ],
)
def test_wrong_settings_are_named(changes, error):
    with pytest.raises(ValueError, match=f"model.parts: {error}"):
        network(**changes)
