"""Layer normalisation against NumPy, its gradients against autodiff of the formula, and what it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.ops.layer_norm import layer_norm

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(3.0, 2.0, size=(4, 5, 16)), jnp.float32)
SCALE, BIAS, UP = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((16,), (16,), X.shape))


def plain(x, scale, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    y = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * scale
    return y if bias is None else y + bias


@pytest.mark.parametrize("bias", [None, BIAS], ids=["scale", "bias"])
def test_values_and_gradients_equal_the_formulas(bias):
    wide = np.asarray(X, np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5) * SCALE
    np.testing.assert_allclose(layer_norm(X, SCALE, bias, 1e-5), want + (0 if bias is None else bias), atol=1e-5)
    args = (X, SCALE) if bias is None else (X, SCALE, bias)

    def gradient(norm):
        which = tuple(range(len(args)))
        return jax.grad(lambda *a: (norm(a[0], a[1], a[2] if len(a) > 2 else None, 1e-5) * UP).sum(), which)(*args)

    for ours, theirs in zip(gradient(layer_norm), gradient(plain)):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_in_bfloat16_it_is_computed_in_fp32_and_keeps_no_fp32_array_of_its_inputs_size():
    low = X.astype(jnp.bfloat16)
    y, pull = jax.vjp(lambda x: layer_norm(x, SCALE, BIAS, 1e-5), low)
    want = plain(low.astype(jnp.float32), SCALE, BIAS, 1e-5)
    np.testing.assert_array_equal(y, want.astype(jnp.bfloat16))
    assert not [x for x in jax.tree.leaves(pull) if x.shape == X.shape and x.dtype == jnp.float32]
    assert pull(y)[0].dtype == jnp.bfloat16
