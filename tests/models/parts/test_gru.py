"""Gated recurrent units against NumPy, and PyTorch where it is there; pooling by channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain.models.parts import base, embed_one, gru, pool
from pretrain.models.stream import Stream

B, N, D, H = 5, 7, 4, 6
GIVEN = {"words": embed_one.Config(("text",), dim=D), "states": gru.Config(("words",), dim=2 * H)}


def build(name):
    return base.Build(name, GIVEN, (), base.Numerics())


def noisy(module, scale=0.7):
    graph, params = nnx.split(module)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return nnx.merge(graph, jax.tree.unflatten(tree, [jnp.float32(rng.normal(size=x.shape) * scale) for x in leaves]))


def stream(width, seed=0):
    """Sentences of 0 to all tokens, one with a gap; what stands in empty slots is large."""
    rng = np.random.default_rng(seed)
    valid = np.arange(N) < np.asarray([7, 0, 1, 4, 6])[:, None]
    valid[4, 2] = False
    x = np.where(valid[..., None], rng.normal(size=(B, N, width)), 1e3)
    return Stream(jnp.float32(x), jnp.asarray(valid), jnp.zeros((B, N), jnp.int32), jnp.zeros((B, N), jnp.int32))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_way(way, x):
    """The states behind the tokens of one sentence `[n, D]`."""
    W, b, U, c = (np.float64(p[...]) for p in (way.inputs.kernel, way.inputs.bias, way.states.kernel, way.states.bias))
    h, out = np.zeros(len(U)), []
    for token in x:
        a, s = np.split(token @ W + b, 3), np.split(h @ U + c, 3)
        r, z = sigmoid(a[0] + s[0]), sigmoid(a[1] + s[1])
        h = (1 - z) * np.tanh(a[2] + r * s[2]) + z * h
        out.append(h)
    return np.reshape(out, (len(x), len(U)))


@pytest.mark.parametrize("both", [True, False])
def test_states_equal_numpy(both):
    """Trap: empty slots behind a short sentence must not come before its last token on the way back."""
    part, given = (
        noisy(gru.Config(("words",), dim=H * (1 + both), both=both).make(build("gru"), nnx.Rngs(0))),
        stream(D),
    )
    found = jax.jit(lambda s: part(s, None))(given)
    assert found.x.shape == (B, N, H * (1 + both)) and (found.valid == given.valid).all()
    for i, valid in enumerate(np.asarray(given.valid)):
        x = np.float64(given.x[i])[valid]
        want = [numpy_way(part.ahead, x)] + ([numpy_way(part.back, x[::-1])[::-1]] if both else [])
        np.testing.assert_allclose(found.x[i][valid], np.concatenate(want, 1), rtol=1e-5, atol=1e-6)
        assert not np.asarray(found.x[i])[~valid].any()


def test_states_equal_those_of_pytorch():
    torch = pytest.importorskip("torch")
    part, given = noisy(gru.Config(("words",), dim=2 * H).make(build("gru"), nnx.Rngs(0))), stream(D)
    theirs = torch.nn.GRU(D, H, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for way, end in zip((part.ahead, part.back), ("", "_reverse")):
            for ours, name in ((way.inputs, "ih"), (way.states, "hh")):
                getattr(theirs, f"weight_{name}_l0{end}").copy_(torch.tensor(np.asarray(ours.kernel[...]).T))
                getattr(theirs, f"bias_{name}_l0{end}").copy_(torch.tensor(np.asarray(ours.bias[...])))
        found = part(given, None).x
        for i in (0, 2, 3):
            n = int(given.valid[i].sum())
            want, _ = theirs(torch.tensor(np.asarray(given.x[i : i + 1, :n])))
            np.testing.assert_allclose(found[i, :n], want[0].numpy(), rtol=1e-5, atol=1e-6)


def test_a_sentence_has_a_gradient_through_all_of_its_tokens_and_none_through_empty_slots():
    part, given = noisy(gru.Config(("words",), dim=2 * H).make(build("gru"), nnx.Rngs(0))), stream(D)
    slopes = jax.jit(jax.grad(lambda x: part(given._replace(x=x), None).x[:, 0].sum()))(given.x)
    through = np.asarray(slopes).any(-1)
    first = np.asarray(given.valid[:, :1])  # of which the state is asked
    np.testing.assert_array_equal(through, np.asarray(given.valid) & first)


def test_channels_are_pooled_under_weights_of_their_own():
    """Trap: one weight a token is another pooling; and padding has none."""
    config = pool.Config(("states",), width=2 * H, how="channels", hidden=3)
    part, given = noisy(config.make(build("pool"), nnx.Rngs(0))), stream(2 * H)
    found = np.asarray(jax.jit(lambda s: part(s, None))(given))
    inner, outer = part.head.inner, np.float64(part.head.outer.kernel[...])
    kernel, bias = np.float64(inner.kernel[...]), np.float64(inner.bias[...])
    for i, valid in enumerate(np.asarray(given.valid)):
        x = np.float64(given.x[i])[valid]
        scores = np.tanh(x @ kernel + bias) @ outer
        weights = np.exp(scores) / np.exp(scores).sum(0)
        np.testing.assert_allclose(found[i], (weights * x).sum(0), rtol=1e-5, atol=1e-5)
        if valid.sum() > 1:
            assert np.ptp(weights, axis=1).max() > 0.1


@pytest.mark.parametrize(
    "config, message",
    [
        (gru.Config(("words",), dim=7), "'x': dim=7: must be positive, and even where both=True"),
        (gru.Config(("words",), dim=0, both=False), "'x': dim=0: must be positive$"),
        (pool.Config(("states",), width=12, how="channels", hidden=0), "'x': hidden=0: must be at least 1"),
    ],
)
def test_bad_settings_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        config.make(build("x"), nnx.Rngs(0))
