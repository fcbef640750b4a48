"""The matrix product with its own backward pass: exact in fp32, close in bf16, gradients in the operands' types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.ops.matmul import matmul


def operands(leading):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((*leading, 6), (6, 4), (*leading, 4))]


@pytest.mark.parametrize("leading", [(3,), (2, 3), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("dtype, atol", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.15)], ids=["fp32", "bf16"])
def test_value_and_gradient_equal_autodiff(leading, dtype, atol):
    x, w, cotangent = operands(leading)

    def both(product):
        y, pull = jax.vjp(product, x, w)
        return y, *pull(cotangent)

    got, want = both(lambda x, w: matmul(x, w, dtype)), both(lambda x, w: jnp.einsum("...k,kn->...n", x, w))
    for g, t in zip(got, want):
        assert g.dtype == jnp.float32 and g.shape == t.shape
        np.testing.assert_allclose(g, t, atol=atol * (1 if g is got[0] else 2))


def test_operands_really_are_cast():
    x, w, _ = operands((3,))
    assert (np.asarray(matmul(x, w, jnp.bfloat16)) != np.asarray(matmul(x, w, jnp.float32))).any()
    exact = np.asarray(x.astype(jnp.bfloat16), np.float64) @ np.asarray(w.astype(jnp.bfloat16), np.float64)
    np.testing.assert_allclose(matmul(x, w, jnp.bfloat16), exact, rtol=1e-5, atol=1e-5)


def test_sums_are_fp32():
    ones = jnp.ones((1, 1024))
    assert matmul(ones, jnp.ones((1024, 1)).at[0].set(0), jnp.bfloat16)[0, 0] == 1023  # bf16 would round to 1024


def test_what_comes_out_has_the_type_of_what_goes_in():
    x, w, _ = operands((3,))
    assert matmul(x, w, jnp.bfloat16).dtype == jnp.float32
    assert matmul(x.astype(jnp.bfloat16), w, jnp.bfloat16).dtype == jnp.bfloat16


def test_gradients_come_back_in_the_operands_types():
    x, w, _ = operands((3,))
    dx, dw = jax.grad(lambda x, w: matmul(x, w, jnp.bfloat16).sum(), (0, 1))(x.astype(jnp.bfloat16), w)
    assert dx.dtype == jnp.bfloat16 and dw.dtype == jnp.float32


def test_under_vmap_and_scan():
    x, w, _ = operands((2, 3))
    np.testing.assert_allclose(jax.vmap(lambda x: matmul(x, w, jnp.float32))(x), matmul(x, w, jnp.float32), atol=1e-6)
    _, scanned = jax.lax.scan(lambda _, x: (None, matmul(x, w, jnp.float32)), None, x)
    np.testing.assert_allclose(scanned, matmul(x, w, jnp.float32), atol=1e-6)


@pytest.mark.parametrize("inner, outer", [((), (2, 3, 2)), ((2, 3), ()), ((3, 2), (4, 3))], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["fp32", "bf16"])
def test_axes_in_the_place_of_one_change_nothing(inner, outer, dtype):
    rng = np.random.default_rng(1)
    x, w, cotangent = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 5, 6), (6, 12), (2, 5, 12)))

    def plain(x, w):
        y, pull = jax.vjp(lambda x, w: matmul(x, w, dtype), x, w)
        return y, *pull(cotangent)

    def shaped(x, w):
        given = x.reshape(2, 5, *(inner or (6,)))
        y, pull = jax.vjp(lambda x, w: matmul(x, w, dtype, None, inner, outer), given, w)
        dx, dw = pull(cotangent.reshape(2, 5, *(outer or (12,))))
        assert y.shape == (2, 5, *(outer or (12,)))
        return y.reshape(2, 5, 12), dx.reshape(x.shape), dw

    for got, want in zip(shaped(x, w), plain(x, w)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
