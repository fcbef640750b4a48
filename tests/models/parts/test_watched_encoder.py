"""An encoder that says what its first token looks at: what it says, and that in all else it is an encoder."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from pretrain.models.network import Config, Network
from pretrain.models.parts import embed_one, encoder, mlp, watched_encoder
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole

LEAF = Leaf(Whole(("caption",), tiny.MODALITIES))


def network(part=watched_encoder.Config, **changes) -> Network:
    parts = dict(
        embed=embed_one.Config(("caption",), 16, cls=True),
        encoder=part(("embed",), **dict(dim=16, depth=3, heads=2) | changes),
        head=mlp.Config(("encoder",), 7),
    )
    return Network(Config(parts, dtype="float32"), tiny.MODALITIES, (), nnx.Rngs(0))


def test_it_is_the_softmax_of_the_first_query_over_what_there_is():
    net, batch = network(), tiny.batch(6, missing=0.3)
    node = net.states.chain("encoder", LEAF)
    out = compute(net, {"x": node, "embedded": net.states.chain("embed", LEAF)}, batch, layers=(node,))
    found, valid = np.asarray(out["x"].aux["first"]), np.asarray(out["x"].valid)
    assert found.shape == (6, 3, 11)
    inputs = np.concatenate([np.asarray(out["embedded"].x)[:, None], np.asarray(out["x"].layers)[:, :-1]], 1)
    attn = jax.tree.map(np.float64, nnx.to_pure_dict(nnx.state(net.encoder.blocks.attn)))
    for layer in range(3):
        x = inputs[:, layer].astype(np.float64)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * attn["norm"]["scale"][layer] + attn["norm"]["bias"][layer]
        q, k, _ = np.split(x @ attn["qkv"]["kernel"][layer] + attn["qkv"]["bias"][layer], 3, -1)
        for b in range(6):
            want = np.zeros(11)
            for head in (slice(0, 8), slice(8, 16)):
                scores = np.where(valid[b], q[b, 0, head] @ k[b, :, head].T / 8**0.5, -np.inf)
                want += np.exp(scores) / np.exp(scores).sum() / 2
            np.testing.assert_allclose(found[b, layer], want, rtol=1e-5, atol=1e-7)
    assert (found[~np.broadcast_to(valid[:, None], found.shape)] == 0).all()


def test_it_is_an_encoder_of_the_same_parameters():
    watched, plain, batch = network(), network(encoder.Config), tiny.batch(6)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(watched), nnx.state(plain))
    a, b = (compute(n, {"x": n.states.chain("encoder", LEAF)}, batch)["x"] for n in (watched, plain))
    np.testing.assert_array_equal(a.x, b.x)
    assert b.aux is None


def test_no_gradient_passes_through_what_it_says():
    net, batch = network(), tiny.batch(6)
    graph, state = nnx.split(net)

    def say(state):
        net = nnx.merge(graph, state)
        return compute(net, {"x": net.states.chain("encoder", LEAF)}, batch)["x"].aux["first"][:, -1, 1].sum()

    assert float(say(state)) > 0 and all((x == 0).all() for x in jax.tree.leaves(jax.grad(say)(state)))


def test_it_is_found_below_a_head():
    states, plain = network().states, network(encoder.Config).states
    assert [watched_encoder.watched_below(states, p) for p in ("head", "encoder", "embed")] == ["encoder"] * 2 + [""]
    assert watched_encoder.watched_below(plain, "head") == ""


@pytest.mark.parametrize("change", [dict(causal=True), dict(registers=2), dict(slopes=(0.1, 0.2)), dict(depth=0)])
def test_what_is_no_plain_encoder_is_refused(change):
    (key,) = change
    with pytest.raises(ValueError, match=f"model.parts: 'encoder': {key}="):
        network(**change)
