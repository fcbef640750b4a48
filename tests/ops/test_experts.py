"""Experts that compute only what is sent to them against every expert on every token, and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.flops import matmul_flops
from pretrain.ops.experts import Experts, dense_experts, sparse_experts
from pretrain.ops.tiles import arrange
from pretrain.sharding import MeshConfig, make_mesh

BATCH, LENGTH, DIM, WIDTH, GROUPS = 8, 6, 5, 12, 3


def case(seed=0, groups=(-1, 0, 1, 2), k=1, gated=False, bias=True, width=WIDTH):
    """(x, route, experts): tokens sent to some of the experts, -1 to none."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    route = np.asarray(rng.choice(groups, (BATCH, LENGTH, k)))
    if k == 2:  # a token is sent to an expert once
        route[..., 1] = np.where(route[..., 0] == route[..., 1], -1, route[..., 1])
    fc = [normal(GROUPS, DIM, width), normal(GROUPS, width, DIM), normal(GROUPS, DIM, width) if gated else None]
    biases = [normal(GROUPS, width), normal(GROUPS, DIM), normal(GROUPS, width) if gated else None]
    experts = Experts(*fc, *(biases if bias else (None, None, None)))
    return normal(BATCH, LENGTH, DIM), jnp.asarray(route), experts


def numpy_experts(x, route, e: Experts):
    """Token by token; tanh, or gated by it."""
    x, out = np.asarray(x, np.float64), np.zeros(x.shape)
    plus = lambda b, g: 0.0 if b is None else np.asarray(b[g], np.float64)
    for b, n in np.ndindex(x.shape[:2]):
        mine = [g for g in np.asarray(route[b, n]) if g >= 0]
        for g in mine:
            h = np.tanh(x[b, n] @ np.asarray(e.fc1[g], np.float64) + plus(e.bias1, g))
            if e.fc3 is not None:
                h = h * (x[b, n] @ np.asarray(e.fc3[g], np.float64) + plus(e.bias3, g))
            out[b, n] += (h @ np.asarray(e.fc2[g], np.float64) + plus(e.bias2, g)) / len(mine)
    return out


def both(how, x, route, experts, **kw):
    weight = jnp.asarray(np.random.default_rng(9).normal(size=x.shape))

    def loss(x, experts):
        y = how(x, route, experts, jnp.tanh, **kw)
        return (y * weight).sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, experts)
    return y, grads


@pytest.mark.parametrize("tile", [1, 4, 1000])
@pytest.mark.parametrize("k, gated, bias", [(1, False, True), (2, True, False), (2, False, True), (1, True, True)])
def test_values_and_gradients_equal_the_dense_ones(tile, k, gated, bias):
    args = case(k=k, gated=gated, bias=bias)
    y, grads = both(sparse_experts, *args, tile=tile)
    want, want_grads = both(dense_experts, *args)
    np.testing.assert_allclose(y, want, atol=2e-5)
    np.testing.assert_allclose(y, numpy_experts(*args), atol=2e-5)
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        np.testing.assert_allclose(got, wanted, atol=5e-5)


@pytest.mark.parametrize("groups", [(0,), (-1, 2), (-1,)], ids=str)
def test_an_expert_without_tokens_has_a_gradient_of_zero(groups):
    y, (dx, grads) = both(sparse_experts, *case(groups=groups), tile=4)
    assert np.isfinite(y).all() and np.isfinite(dx).all()
    for g in range(GROUPS):
        for leaf in jax.tree.leaves(grads):
            assert np.isfinite(leaf).all()
            assert np.asarray(leaf[g]).any() == (g in groups), "exactly 0, not nearly"


def test_what_no_token_is_sent_to_may_hold_anything():
    x, route, experts = case(groups=(-1, 0, 1))
    broken = jax.tree.map(lambda w: w.at[2].set(jnp.nan), experts)
    y, (dx, grads) = both(sparse_experts, x, route, experts, tile=4)
    # Tiles past the last hold zeros, and are the last expert's.
    got, (got_dx, got_grads) = both(sparse_experts, x, route, broken, tile=4)
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(got_dx, dx)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:2], b[:2]), got_grads, grads)
    assert (np.asarray(y)[np.asarray(route[..., 0]) < 0] == 0).all()


def test_the_products_are_those_of_one_expert_a_token():
    """Beside one tile an expert, at most."""
    x, route, experts = case(groups=(0, 1, 2), bias=False)
    tile, rows = 4, BATCH * LENGTH
    count = lambda how, **kw: matmul_flops(
        jax.make_jaxpr(lambda x, e: how(x, route, e, jnp.tanh, **kw).sum())(x, experts)
    )
    arranged = matmul_flops(jax.make_jaxpr(lambda r: arrange(r.reshape(-1), GROUPS, tile).slot)(route))
    one_token = 2 * 2.0 * DIM * WIDTH
    assert count(sparse_experts, tile=tile) - arranged == (rows + GROUPS * tile) * one_token
    assert count(dense_experts) >= GROUPS * rows * one_token


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2), (1, 2, 4)], ids=str)
@pytest.mark.parametrize("width", [12, 7], ids="width {}".format)
def test_under_a_mesh_it_is_the_same(mesh, width):
    """A width of 12 is split over `tensor`, one of 7 is not."""
    args = case(seed=7, k=2, gated=True, width=width)
    alone = both(sparse_experts, *args, tile=4)
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices")
    with jax.set_mesh(make_mesh(MeshConfig(0, *mesh), jax.devices())):
        meshed = both(sparse_experts, *args, tile=4)
    for got, want in zip(jax.tree.leaves(meshed), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)


def test_bf16_operands_are_close_and_gradients_come_back_in_fp32():
    args = case(seed=8)
    y, grads = both(sparse_experts, *args, dtype=jnp.bfloat16)
    want, want_grads = both(dense_experts, *args)
    assert y.dtype == jnp.float32 and all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(y, want, atol=0.2)
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        np.testing.assert_allclose(got, wanted, atol=0.05 * np.abs(wanted).max())
