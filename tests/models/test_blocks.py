"""Blocks: adapters, and drop-path: single branches of single examples go, more often the deeper, or none at all."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx

from pretrain.models.blocks.base import Given
from pretrain.models.layers import Seen
from pretrain.models.stack import LAYERS, PerLayer, drop_path, run_stack
from pretrain.models.tokens import Whole

IMAGE = Whole(("image",), tiny.MODALITIES)


def test_rates_rise_with_depth_and_the_mean_stays():
    keep = np.asarray(drop_path(jax.random.split(jax.random.key(0), 4000), 0.4, 3))
    assert keep.shape == (3, 4000, 2)
    np.testing.assert_array_equal(keep[0], 1.0)
    np.testing.assert_allclose((keep == 0).mean((1, 2)), [0.0, 0.2, 0.4], atol=0.02)
    np.testing.assert_allclose(keep.mean((1, 2)), 1.0, atol=0.03)
    assert 0.02 < ((keep[2, :, 0] == 0) & (keep[2, :, 1] == 0)).mean() < 0.25, "branches are dropped alone"


def test_a_dropped_branch_adds_nothing_and_ones_change_no_bit():
    network = tiny.model(encoder_depth=2)
    stream = network.run("embed", IMAGE(jax.tree.map(jnp.asarray, tiny.batch(4, missing=0.0))))
    given = Given(Seen(stream.valid[:, None, None, :]))

    def run(keep=None):
        x, outputs = run_stack(network.encoder.blocks, stream.x, given, PerLayer(keep), layers=True)
        return x, outputs[LAYERS]

    plain, layers = run()
    ones, _ = run(jnp.ones((2, 4, 2)))
    np.testing.assert_array_equal(ones, plain)
    _, dropped = run(jnp.ones((2, 4, 2)).at[1, 2].set(0.0))  # the second block of the third example
    np.testing.assert_array_equal(dropped[1, 2], layers[0, 2])
    np.testing.assert_array_equal(np.delete(dropped[1], 2, 0), np.delete(layers[1], 2, 0))
    double = run(jnp.ones((2, 4, 2)).at[0, :, 1].set(2.0))[1][0]
    half = run(jnp.ones((2, 4, 2)).at[0, :, 1].set(0.0))[1][0]
    np.testing.assert_allclose(double - half, 2 * (layers[0] - half), atol=1e-5)


def test_an_adapter_starts_as_the_identity():
    """Untouched parameters of a network with adapters give the bits of the one without."""
    shown = IMAGE(jax.tree.map(jnp.asarray, tiny.batch(4)))
    graph, params = nnx.split(tiny.model(adapter=3, noise=0.0))
    plain_graph, plain = nnx.split(tiny.model(noise=0.0))
    ours, theirs = nnx.to_pure_dict(params), nnx.to_pure_dict(plain)
    adapters = ours["encoder"]["blocks"]["adapters"]
    assert set(adapters) == {"attn", "mlp"}

    def encode(graph, params):
        network = nnx.merge(graph, params)
        return network.run("encoder", network.run("embed", shown)).x

    def adapted():
        blocks = theirs["encoder"]["blocks"] | {"adapters": adapters}
        return theirs | {"encoder": theirs["encoder"] | {"blocks": blocks}}

    merged = encode(graph, adapted())
    np.testing.assert_array_equal(merged, encode(plain_graph, plain))
    adapters["mlp"]["up"]["bias"] += 1.0
    assert (encode(graph, adapted()) != merged).any()
