"""Projections with layers before the last."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from pretrain.models.network import Config, Network
from pretrain.models.parts import embed_one, pool, project
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole


def network(**changes) -> Network:
    parts = dict(
        embed=embed_one.Config(("caption",), 16), pool=pool.Config(("embed",), 16),
        project=project.Config(("pool",), **dict(dim=5, hidden=(12,)) | changes),
    )  # fmt: skip
    return Network(Config(parts, dtype="float32"), tiny.MODALITIES, (), nnx.Rngs(0))


@pytest.mark.parametrize("of", [(), ("caption",)])
def test_hidden_layers_are_relu_layers_with_a_bias(of):
    net, leaf, batch = network(of=of), Leaf(Whole(("caption",), tiny.MODALITIES)), tiny.batch(6, missing=0.0)
    nodes = {"z": net.states.embedding("caption", leaf), "x": net.states.pooled("caption", leaf)}
    nodes |= {"tokens": net.states.projected("caption", leaf), "embed": net.states.stream("caption", leaf)}
    found = net.project.each["caption"] if of else net.project.linear
    for linear in found.linears:
        linear.bias[...] += 0.3
    first, last = (jax.tree.map(np.float64, nnx.to_pure_dict(nnx.state(x))) for x in found.linears)
    out = compute(net, nodes, batch)

    def want(x):
        y = np.maximum(x @ first["kernel"] + first["bias"], 0) @ last["kernel"] + last["bias"]
        return y / np.linalg.norm(y, axis=-1, keepdims=True)

    np.testing.assert_allclose(out["z"], want(np.float64(out["x"])), atol=1e-6)
    np.testing.assert_allclose(out["tokens"], want(np.float64(out["embed"].x)), atol=1e-6)


@pytest.mark.parametrize("change", [dict(hidden=(0,)), dict(hidden=(8,), dim=16, identity=True)])
def test_hidden_layers_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=r"'project': hidden=.*: needs positive widths, and identity=False"):
        network(**change)
