"""Who sees whom in an encoder; its registers, earlier layers and stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import MODALITIES
from towers import batch, make, run

from pretrain.models.blocks.base import Given
from pretrain.models.layers import Seen
from pretrain.models.stack import PerLayer, drop_path, run_stack
from pretrain.models.stream import NO_MODALITY
from pretrain.models.tokens import Shown, TokenSet, Whole, concat, whole
from pretrain.ops.keys import named

IMAGE = Whole(("image",), MODALITIES)


def encode(network, shown, **options):
    return network.run("encoder", network.run("embed", shown), **options)


def test_empty_slots_and_the_order_of_tokens_change_nothing():
    network, data = tiny.model(pool_queries=2), tiny.batch(3, missing=0.0)
    image, depth = (whole(data, n, MODALITIES) for n in ("image", "depth"))
    alone = encode(network, Shown(image, {}))
    padded = encode(network, Shown(concat([depth._replace(valid=np.zeros_like(depth.valid)), image]), {}))
    np.testing.assert_allclose(padded.x[:, 6:], alone.x, atol=1e-5)
    np.testing.assert_allclose(network.run("pool", padded), network.run("pool", alone), atol=1e-5)
    turned = encode(network, Shown(TokenSet(*(np.asarray(f)[:, ::-1] for f in image)), {}))
    np.testing.assert_allclose(turned.x[:, ::-1], alone.x, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_a_causal_one_sees_its_past_only_and_nobody_sees_padding(causal):
    made, data = make("text", pool="last", causal=causal), batch()
    before, valid, _ = run(made, data, "text")
    ids = data["text"]["ids"].copy()
    ids[~data["text"]["valid"]] = 7
    padded, _, _ = run(made, data | {"text": data["text"] | {"ids": ids}}, "text")
    np.testing.assert_array_equal(padded[valid], before[valid])
    ids[:, 1] = ids[:, 1] % 26 + 4
    changed, _, _ = run(made, data | {"text": data["text"] | {"ids": ids}}, "text")
    assert np.allclose(changed[:, 0], before[:, 0], atol=1e-6) == causal
    assert not np.allclose(changed[:, 1], before[:, 1], atol=1e-3)


def test_registers_come_first_and_stand_for_nothing():
    network = tiny.model(registers=2)
    embedded = network.run("embed", IMAGE(tiny.batch(3)))
    encoded = network.run("encoder", embedded)
    assert encoded.x.shape == (3, 18, 16) and encoded.valid[:, :2].all() and not encoded.placed[:, :2].any()
    assert (np.asarray(encoded.modality[:, :2]) == NO_MODALITY).all() and not encoded.counted[:, :2].any()
    for own, given in zip(encoded[1:6], embedded[1:6]):
        np.testing.assert_array_equal(own[:, 2:], given)
    moved = tiny.model(registers=2)
    moved.encoder.registers[...] *= -3.0
    assert np.abs(moved.run("encoder", embedded).x[:, 2:] - encoded.x[:, 2:]).max() > 1e-3


def test_layers_and_the_stream_of_an_earlier_one():
    """Of the numbers below 1 every layer but the last has an equal share."""
    network = tiny.model(encoder_depth=4)
    encoded = encode(network, IMAGE(tiny.batch(3, missing=0.0)), layers=True)
    assert encoded.layers.shape == (3, 4, 16, 16)
    norm = network.encoder.norm
    np.testing.assert_allclose(norm(encoded.layers[:, -1]), encoded.x, atol=1e-6)
    for early, layer in ((0.0, 0), (0.3, 0), (0.4, 1), (0.7, 2), (0.999, 2), (1.0, 2)):
        given = network.run("encoder", encoded, jnp.full(3, early))
        np.testing.assert_allclose(given.x, norm(encoded.layers[:, layer]), atol=1e-6)
        assert given.layers is None
    # Rows that ran together may each have a number of their own (`passes.evaluate`).
    mixed = network.run("encoder", encoded, jnp.asarray([0.0, 0.4, 0.9]))
    want = norm(jnp.stack([encoded.layers[i, i] for i in range(3)]))
    np.testing.assert_allclose(mixed.x, want, atol=1e-6)
    one = tiny.model(encoder_depth=1)
    only = encode(one, IMAGE(tiny.batch(3, missing=0.0)), layers=True)
    np.testing.assert_allclose(one.run("encoder", only, jnp.zeros(3)).x, only.x, atol=1e-6)


def test_drop_is_stochastic_depth_of_every_example():
    network, keys = tiny.model(encoder_depth=3), jax.random.split(jax.random.key(0), 8)
    stream = network.run("embed", IMAGE(tiny.batch(8, missing=0.0)))
    dropped = network.run("encoder", stream, keys=keys, drop=0.7)
    keep = drop_path(keys, 0.7, 3)
    x, _ = run_stack(network.encoder.blocks, stream.x, Given(Seen(stream.valid[:, None, None, :])), PerLayer(keep))
    np.testing.assert_allclose(dropped.x, network.encoder.norm(x), atol=1e-6)
    plain = network.run("encoder", stream).x
    same = np.isclose(dropped.x, plain, atol=1e-6).all((1, 2))
    np.testing.assert_array_equal(same, np.asarray(keep == 1).all((0, 2)))
    assert not same.all()
    np.testing.assert_array_equal(network.run("encoder", stream, keys=keys).x, plain)
    other = network.run("encoder", stream, keys=named(keys, "other"), drop=0.7).x
    assert np.abs(other - dropped.x).max() > 1e-3


def test_what_adds_to_attention():
    """Where nobody may be looked at but oneself, what changes elsewhere changes nothing."""
    network, data = tiny.model(), tiny.batch(3, missing=0.0)
    image = whole(data, "image", MODALITIES)
    other = image._replace(ids=(image.ids + (np.arange(16) != 5)) % 20)
    streams = [network.run("embed", Shown(t, {})) for t in (image, other)]
    bias = jnp.where(jnp.eye(16, dtype=bool), 0.0, -1e9)[None, None]
    one, two = (np.asarray(network.run("encoder", s, bias=bias).x) for s in streams)
    np.testing.assert_allclose(one[:, 5], two[:, 5], atol=1e-6)
    one, two = (np.asarray(network.run("encoder", s).x) for s in streams)
    assert np.abs(one[:, 5] - two[:, 5]).max() > 1e-3
