"""Attention against NumPy: masks, bias, rows that may look nowhere, and the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.ops import attention
from pretrain.ops.attention import attend

B, N, M, H, D = 2, 3, 5, 2, 4


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(B, n, H, D)), jnp.float32) for n in (N, M, M)]


def numpy_attend(q, k, v, mask, bias):
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    mask, bias = np.broadcast_to(mask, (B, H, N, M)), np.broadcast_to(bias, (B, H, N, M))
    out = np.zeros((B, N, H, D))
    for b, n, h in np.ndindex(B, N, H):
        looked = np.flatnonzero(mask[b, h, n])
        if not len(looked):
            out[b, n, h] = v[b, :, h].mean(0)
            continue
        scores = [q[b, n, h] @ k[b, m, h] / np.sqrt(D) + bias[b, h, n, m] for m in looked]
        weights = np.exp(scores) / np.exp(scores).sum()
        out[b, n, h] = sum(w * v[b, m, h] for w, m in zip(weights, looked))
    return out


MASK = np.random.default_rng(1).random((B, 1, N, M)) < 0.6
MASK[0, 0, 1] = False
BIAS = np.random.default_rng(2).normal(size=(1, H, N, M))


@pytest.fixture(params=[False, True], ids=["", "keys padded"])
def padded(request, monkeypatch):
    """As on a TPU, whose tiles are of 8 here."""
    monkeypatch.setattr(attention, "LANES", 8)
    monkeypatch.setattr(attention, "device_kind", lambda: "TPU v5e" if request.param else "cpu")


@pytest.mark.parametrize("mask", [None, MASK, MASK[:, :, :1]], ids=["none", "full", "broadcast"])
@pytest.mark.parametrize("bias", [None, BIAS], ids=["plain", "bias"])
def test_equals_numpy(mask, bias, padded):
    q, k, v = arrays()
    got = attend(q, k, v, mask=mask, bias=None if bias is None else jnp.asarray(bias, jnp.float32))
    want = numpy_attend(q, k, v, True if mask is None else mask, 0.0 if bias is None else bias)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("mask", [None, MASK], ids=["none", "full"])
@pytest.mark.parametrize("bias", [None, BIAS], ids=["plain", "bias"])
def test_padded_keys_change_no_gradient(mask, bias, monkeypatch):
    arguments = [*arrays(), *(() if bias is None else (jnp.asarray(bias, jnp.float32),))]

    def gradient():
        """(program, values); traced anew."""
        loss = lambda q, k, v, *bias: jnp.square(attend(q, k, v, mask=mask, bias=bias[0] if bias else None)).sum()
        grad = jax.grad(loss, tuple(range(len(arguments))))
        return str(jax.make_jaxpr(grad)(*arguments)), grad(*arguments)

    program, want = gradient()
    assert "-inf" not in program
    monkeypatch.setattr(attention, "LANES", 8)
    monkeypatch.setattr(attention, "device_kind", lambda: "TPU v5e")
    program, got = gradient()
    assert "-inf" in program, "keys are padded"
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_row_that_may_look_nowhere_is_uniform_and_has_no_nan(padded):
    q, k, v = arrays()
    mask = np.zeros((B, 1, 1, M), bool)
    np.testing.assert_allclose(
        attend(q, k, v, mask=mask), np.broadcast_to(np.asarray(v).mean(1, keepdims=True), (B, N, H, D)), atol=1e-6
    )
    grads = jax.grad(lambda *a: jnp.square(attend(*a, mask=mask)).sum(), (0, 1, 2))(q, k, v)
    assert all(np.isfinite(g).all() for g in grads) and np.asarray(grads[2]).any()


def test_what_is_masked_has_no_influence():
    q, k, v = arrays()
    mask = np.ones((B, 1, N, M), bool)
    mask[..., 2] = False

    def loss(k, v):
        return jnp.square(attend(q, k, v, mask=mask)).sum()

    dk, dv = jax.grad(loss, (0, 1))(k, v)
    assert not np.asarray(dk[:, 2]).any() and not np.asarray(dv[:, 2]).any()
    assert loss(k.at[:, 2].set(99.0), v.at[:, 2].set(99.0)) == loss(k, v) != loss(k.at[:, 1].set(9.0), v)


def test_large_scores_stay_finite():
    q, k, v = arrays()
    assert np.isfinite(attend(1e4 * q, 1e4 * k, v)).all()


def test_bf16_operands_give_fp32_close_to_fp32():
    q, k, v = arrays()
    got = attend(*(a.astype(jnp.bfloat16) for a in (q, k, v)), mask=MASK)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, attend(q, k, v, mask=MASK), atol=0.05)


@pytest.mark.parametrize("mask", [None, MASK, MASK[:, :, :1]], ids=["none", "full", "broadcast"])
@pytest.mark.parametrize("bias", [None, BIAS, BIAS[0]], ids=["plain", "bias", "three dimensions"])
def test_gradients_equal_those_of_the_formula(mask, bias):
    """Of queries, keys, values and bias; rows that may look nowhere move values alone."""
    q, k, v = arrays()
    b = jnp.zeros((1, 1, 1, 1)) if bias is None else jnp.asarray(bias, jnp.float32)
    up = jnp.asarray(np.random.default_rng(3).normal(size=q.shape), jnp.float32)

    def plain(q, k, v, b):
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / jnp.sqrt(D) + b
        scores = scores if mask is None else jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        return (jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores, -1), v) * up).sum()

    got = jax.grad(lambda q, k, v, b: (attend(q, k, v, mask=mask, bias=b) * up).sum(), (0, 1, 2, 3))(q, k, v, b)
    for ours, theirs in zip(got, jax.grad(plain, (0, 1, 2, 3))(q, k, v, b)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
