"""The part `state`, which takes in one modality after another, and the perceptron `mlp`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from pretrain.models.network import Config, Network
from pretrain.models.parts import embed, encoder, mlp, pool, state
from pretrain.models.parts.state import dropout
from pretrain.models.passes import Leaf, compute, evaluate
from pretrain.models.stream import NO_MODALITY
from pretrain.models.tokens import Whole
from pretrain.parameters import Roles, variables

NAMES = tuple(m.name for m in tiny.MODALITIES)
ORDER = ("caption", "image", "label", "depth")


def network(**changes) -> Network:
    values = dict(order=ORDER, dim=6, hidden=(5,)) | changes
    parts = dict(
        embed=embed.Config(dim=8), state=state.Config(("embed",), **values), pool=pool.Config(("state",), 6, "last")
    )  # fmt: skip
    return Network(Config(parts, dtype="float32"), tiny.MODALITIES, (), nnx.Rngs(0))


def found(net, batch, names=NAMES, part="state", layers=False):
    node = net.states.chain(part, Leaf(Whole(names, tiny.MODALITIES)))
    return compute(net, {"x": node}, batch, layers=[node] if layers else ())["x"]


@pytest.mark.slow
def test_states_follow_the_order_and_stay_where_a_modality_lacks():
    net, batch = network(), tiny.batch(16, missing=0.5)
    stream = found(net, batch)
    assert stream.x.shape == (16, 5, 6)
    np.testing.assert_array_equal(stream.modality[0], [NO_MODALITY, *map(NAMES.index, ORDER)])
    np.testing.assert_array_equal(stream.x[:, 0], np.broadcast_to(net.state.start[...], (16, 6)))
    for i, name in enumerate(ORDER):
        present = batch[name]["valid"].any(1)
        np.testing.assert_array_equal(stream.valid[:, i + 1], present)
        np.testing.assert_array_equal(stream.x[~present, i + 1], stream.x[~present, i])
        assert 0 < present.sum() < 16 and (stream.x[present, i + 1] != stream.x[present, i]).any(1).all()


def test_what_comes_later_changes_no_earlier_state():
    net, batch = network(), tiny.batch(8, missing=0.0)
    before = found(net, tiny.without(tiny.without(batch, "label"), "depth")).x
    np.testing.assert_array_equal(found(net, batch).x[:, :3], before[:, :3])


def test_the_last_state_is_the_vector_of_any_modalities_read_together():
    net, batch = network(), tiny.batch(8, missing=0.3)
    assert net.states.pools_together(NAMES) == "pool" and net.states.encodes(("image", "label")) == "state"
    names = ("depth", "caption")  # however they are named, they enter in the state's order
    vector = found(net, batch, names, "pool")
    less = tiny.without(tiny.without(batch, "image"), "label")
    np.testing.assert_allclose(vector, found(net, less).x[:, -1], atol=1e-6)


def test_layers_are_the_states_so_far():
    stream = found(network(), tiny.batch(8, missing=0.3), layers=True)
    assert stream.layers.shape == (8, 4, 5, 6)
    np.testing.assert_array_equal(stream.layers[:, -1], stream.x)
    np.testing.assert_array_equal(stream.layers[:, 1], stream.x[:, jnp.asarray([0, 1, 2, 2, 2])])


def test_dropout_is_drawn_for_every_example_and_step_and_keeps_the_mean():
    keys, x = jax.random.split(jax.random.key(0), 300), jnp.ones((300, 2, 50))
    first, second = (np.asarray(dropout(keys, step, x, 0.25)) for step in (0, 1))
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose([first.mean(), second.mean()], 1.0, atol=0.02)
    assert (first != second).mean() > 0.3 and (first[0] != first[1]).any()
    np.testing.assert_array_equal(dropout(keys[:5], 0, x[:5], 0.25), first[:5])


def test_what_is_dropped_reaches_the_states():
    net, batch = network(), tiny.batch(8, missing=0.0)
    leaf = Leaf(Whole(NAMES, tiny.MODALITIES))
    plain = net.states.chain("state", leaf)
    dropped = net.states.call("state", *plain.args, drop=0.5)
    data = {leaf.make: leaf.make(batch)}
    out = evaluate([plain, dropped], {"online": net}, data, jax.random.split(jax.random.key(1), 8))
    assert (out[dropped].x[:, 1:] != out[plain].x[:, 1:]).any() and np.isfinite(out[dropped].x).all()
    np.testing.assert_array_equal(out[dropped].x[:, 0], out[plain].x[:, 0])


def test_depths_count_the_encoders_between_a_parameter_and_the_output():
    roles = Roles(variables(network()))
    kernel = "state/encoders/{}/linears/0/kernel"
    assert [roles[kernel.format(name)].depth for name in ORDER] == [4, 3, 2, 1]
    assert roles["embed/modality"].depth == 5 and not roles["state/start"].decay


def test_mlp_equals_numpy():
    parts = dict(embed=embed.Config(dim=8), mlp=mlp.Config(("embed",), 3, hidden=(5, 4), final="sigmoid"))
    net, batch = Network(Config(parts, dtype="float32"), tiny.MODALITIES, (), nnx.Rngs(0)), tiny.batch(4)
    for linear in net.mlp.layers.linears:
        linear.bias[...] = jnp.cos(jnp.arange(float(len(linear.bias))))
    x, stream = np.asarray(found(net, batch, part="embed").x, np.float64), found(net, batch, part="mlp")
    for i, linear in enumerate(net.mlp.layers.linears):
        x = x @ np.asarray(linear.kernel[...], np.float64) + np.asarray(linear.bias[...], np.float64)
        x = np.maximum(x, 0) if i < 2 else 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(stream.x, x, rtol=1e-5)
    np.testing.assert_array_equal(stream.valid, found(net, batch, part="embed").valid)


@pytest.mark.parametrize(
    "changes, error",
    [
        (
            dict(order=("image",)),
            r"'state': order=\('image',\): name each modality that 'embed' embeds once: image, dep",
        ),
        (dict(order=(*ORDER, "image")), "name each modality that 'embed' embeds once"),
        (dict(order=(*ORDER[:3], "nose")), "name each modality that 'embed' embeds once"),
        (dict(dim=0), "'state': dim=0: must be at least 1"),
        (dict(hidden=(4, 0)), r"'state': hidden=\(4, 0\): widths must be at least 1"),
        (dict(activation="rleu"), "'state': activation='rleu': must be one of gelu"),
        (dict(final=""), "'state': final='': must be one of gelu"),
    ],
)
def test_wrong_settings_are_named(changes, error):
    with pytest.raises(ValueError, match=f"model.parts: .*{error}"):
        network(**changes)


def test_a_state_reads_an_embedding_of_several_modalities():
    parts = dict(
        embed=embed.Config(dim=8), trunk=encoder.Config(("embed",), 8, 1, 2),
        state=state.Config(("trunk",), order=ORDER),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"'state': reads=\('trunk',\): needs an embedding of several modalities"):
        Network(Config(parts, dtype="float32"), tiny.MODALITIES, (), nnx.Rngs(0))
