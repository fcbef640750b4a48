"""Grouped cross-entropy against its dense reference and against a formula in NumPy: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.ops.counting import running_count
from pretrain.ops.cross_entropy import dense_nll, grouped_nll
from pretrain.sharding import MeshConfig, make_mesh

SIZES, BATCH, LENGTH, DIM = (8, 3, 30), 8, 6, 5
MORE = dict(z_loss=0.3, smoothing=0.2)


def case(seed=0, vocabs=(0, 1, 2), valid=0.7):
    """(y, tables, vocab, labels, valid): random tokens of the vocabularies `vocabs`."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(BATCH, LENGTH, DIM)).astype(np.float32)
    tables = [rng.normal(size=(n, DIM)).astype(np.float32) for n in SIZES]
    vocab = rng.choice(vocabs, (BATCH, LENGTH)).astype(np.int32)
    labels = (rng.integers(0, 1000, (BATCH, LENGTH)) % np.asarray(SIZES)[vocab]).astype(np.int32)
    valid = rng.random((BATCH, LENGTH)) < valid
    return jnp.asarray(y), [jnp.asarray(t) for t in tables], jnp.asarray(vocab), jnp.asarray(labels), valid


def numpy_nll(y, tables, vocab, labels, valid, z_loss=0.0, smoothing=0.0):
    y, tables, out = np.asarray(y, np.float64), [np.asarray(t, np.float64) for t in tables], np.zeros(vocab.shape)
    for b, m in np.argwhere(valid):
        logits = tables[vocab[b, m]] @ y[b, m]
        log_p = logits - np.log(np.exp(logits).sum())
        wanted = np.full(len(logits), smoothing / len(logits))
        wanted[labels[b, m]] += 1 - smoothing
        out[b, m] = -(wanted * log_p).sum() + z_loss * np.log(np.exp(logits).sum()) ** 2
    return out


@pytest.mark.parametrize("more", [{}, MORE], ids=["plain", "z_loss and smoothing"])
@pytest.mark.parametrize("tile", [1, 4, 16, 1000])
@pytest.mark.parametrize("vocabs", [(0, 1, 2), (2,), (0, 2)], ids=str)
def test_values_and_gradients_equal_the_dense_ones(tile, vocabs, more):
    y, tables, vocab, labels, valid = case(vocabs=vocabs)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=vocab.shape))

    def of(nll, **kw):
        def loss(y, tables):
            values = nll(y, tables, vocab, labels, valid, **kw, **more)
            return (values * weight).sum(), values

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(y, tables)

    # The z-loss makes gradients of 50, whose last bit is 4e-6.
    close = dict(atol=1e-5, rtol=1e-6 if more else 1e-7)
    (_, grouped), (dy, dtables) = of(grouped_nll, tile=tile)
    (_, dense), (want_dy, want_dtables) = of(dense_nll)
    np.testing.assert_allclose(grouped, dense, **close)
    np.testing.assert_allclose(dy, want_dy, **close)
    for got, want in zip(dtables, want_dtables):
        np.testing.assert_allclose(got, want, **close)


@pytest.mark.parametrize("nll", [dense_nll, grouped_nll])
def test_both_equal_the_formula(nll):
    args = case(seed=3)
    np.testing.assert_allclose(nll(*args), numpy_nll(*args), atol=1e-5)
    np.testing.assert_allclose(nll(*args, **MORE), numpy_nll(*args, **MORE), atol=1e-5)


def test_empty_slots_give_zero_and_no_gradient_whatever_they_hold():
    y, tables, vocab, labels, valid = case(seed=4)
    garbage = jnp.where(valid, labels, 10**6)
    huge = jnp.where(valid[..., None], y, 1e30)
    got = grouped_nll(huge, tables, vocab, garbage, valid, tile=4)
    np.testing.assert_array_equal(got, grouped_nll(y, tables, vocab, labels, valid, tile=4))
    assert (np.asarray(got)[~valid] == 0).all() and (np.asarray(got)[valid] > 0).all()
    dy = jax.grad(lambda y: grouped_nll(y, tables, vocab, garbage, valid, tile=4).sum())(huge)
    assert (np.asarray(dy)[~valid] == 0).all() and np.isfinite(dy).all() and np.asarray(dy)[valid].any(-1).all()


def test_all_invalid():
    y, tables, vocab, labels, valid = case(valid=-1.0)
    value, (dy, dtables) = jax.value_and_grad(lambda y, t: grouped_nll(y, t, vocab, labels, valid).sum(), (0, 1))(
        y, tables
    )
    assert value == 0 and not np.asarray(dy).any() and not any(np.asarray(d).any() for d in dtables)


def test_all_valid_and_every_group_ends_in_the_middle_of_a_tile():
    args = case(seed=5, valid=2.0)
    np.testing.assert_allclose(grouped_nll(*args, tile=5), numpy_nll(*args), atol=1e-5)


def test_extreme_logits_stay_finite():
    y, tables, vocab, labels, valid = case(seed=6)
    got = grouped_nll(1e4 * y, tables, vocab, labels, valid)
    assert np.isfinite(got).all() and (np.asarray(got) >= 0).all()


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 2)], ids=str)
def test_under_a_mesh_it_is_the_same(mesh):
    """Vocabularies of 8 and 30 are split over `tensor`, that of 3 is not."""
    y, tables, vocab, labels, valid = case(seed=7)

    def loss(y, tables):
        return (grouped_nll(y, tables, vocab, labels, valid, tile=4, **MORE) ** 2).sum()

    alone = jax.jit(jax.value_and_grad(loss, (0, 1)))(y, tables)
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices")
    with jax.set_mesh(make_mesh(MeshConfig(0, *mesh), jax.devices()[: np.prod(mesh)])):
        meshed = jax.jit(jax.value_and_grad(loss, (0, 1)))(y, tables)
    for got, want in zip(jax.tree.leaves(meshed), jax.tree.leaves(alone)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_bf16_operands_are_close():
    y, tables, vocab, labels, valid = case(seed=8)
    got = grouped_nll(y, tables, vocab, labels, valid, dtype=jnp.bfloat16)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, dense_nll(y, tables, vocab, labels, valid), atol=0.15)


@pytest.mark.parametrize("size", [1, 127, 128, 129, 6000])
def test_running_count_is_a_cumsum(size):
    flag = np.random.default_rng(0).random((3, size)) < 0.9
    count = running_count(jnp.asarray(flag))
    assert count.dtype == jnp.int32
    np.testing.assert_array_equal(count, flag.cumsum(1))
