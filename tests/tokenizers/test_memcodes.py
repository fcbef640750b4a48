"""Memory codes: an evaluation of 4M's, and the draw of training."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain.ops.keys import named
from pretrain.tokenizers.quantizers import memcodes

GOLDEN = Path(__file__).parents[1] / "golden/fourm/quantizers.npz"


@pytest.fixture
def golden():
    return np.load(GOLDEN)


@pytest.fixture
def quantizer(golden):
    heads, size, part = golden["mc_codes"].shape
    made = memcodes.Quantizer(memcodes.Config(heads, size, heads * part), rngs=nnx.Rngs(0))
    for ours, theirs in (("codes", "codes"), ("to_k", "k"), ("to_v", "v")):
        assert getattr(made, ours).shape == golden[f"mc_{theirs}"].shape
        getattr(made, ours)[...] = jnp.asarray(golden[f"mc_{theirs}"])
    return made


def test_an_evaluation_of_4m(golden, quantizer):
    z = jnp.asarray(golden["mc_x"].reshape(3, 1, 64))
    out = quantizer(z)
    np.testing.assert_array_equal(out.ids, golden["mc_ind"].reshape(3, 8))
    np.testing.assert_allclose(out.codes, golden["mc_out"].reshape(3, 1, 64), rtol=1e-5, atol=1e-6)


def test_ids_and_codes_are_inverse(quantizer):
    ids = jnp.asarray(np.random.default_rng(0).integers(128, size=(4, 3 * 8)))
    codes = quantizer.to_codes(ids)
    assert codes.shape == (4, 3, 64)
    np.testing.assert_array_equal(quantizer.to_ids(codes), ids)
    out = quantizer(jnp.asarray(np.random.default_rng(1).normal(size=(4, 3, 64)), jnp.float32))
    np.testing.assert_allclose(quantizer.to_codes(out.ids), out.codes, atol=1e-6)
    np.testing.assert_array_equal(quantizer.to_ids(out.codes), out.ids)


def test_training_draws_codes_by_their_softmax(quantizer):
    """Frequencies of 4000 draws for one vector, head by head."""
    z = jnp.asarray(np.random.default_rng(2).normal(size=(1, 1, 64)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    ids = np.asarray(jax.jit(lambda z, k: quantizer(jnp.repeat(z, 4000, 0), k).ids)(z, keys))
    k = np.einsum("hkd,hdc->hkc", quantizer.codes[...], quantizer.to_k[...])
    logits = np.einsum("hd,hkd->hk", np.asarray(z).reshape(8, 8) / np.sqrt(8), k)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    for head in range(8):
        seen = np.bincount(ids[:, head], minlength=128) / 4000
        np.testing.assert_allclose(seen, p[head], atol=4 * np.sqrt(p[head].max() / 4000))


def test_gradient_of_training_is_that_of_the_softmax(quantizer):
    rng = np.random.default_rng(3)
    z, weight = (jnp.asarray(rng.normal(size=(2, 1, 64)), jnp.float32) for _ in range(2))
    keys = jax.random.split(jax.random.key(1), 2)

    def soft(z):
        q = z.reshape(2, 1, 8, 8) / jnp.sqrt(8.0)
        logits = jnp.einsum("bnhd,hkd->bnhk", q, jnp.einsum("hkd,hdc->hkc", quantizer.codes[...], quantizer.to_k[...]))
        noise = jax.vmap(lambda k: jax.random.gumbel(named(k, "gumbel"), (1, 8, 128)))(keys)
        v = jnp.einsum("hkd,hdc->hkc", quantizer.codes[...], quantizer.to_v[...])
        return jnp.einsum("bnhk,hkd->bnhd", jax.nn.softmax(logits + noise), v).reshape(2, 1, 64)

    got = jax.grad(lambda z: (weight * quantizer(z, keys).codes).sum())(z)
    np.testing.assert_allclose(got, jax.grad(lambda z: (weight * soft(z)).sum())(z), atol=1e-5)
    assert np.asarray(got).any()
    out = quantizer(z, keys)
    np.testing.assert_allclose(quantizer.to_codes(out.ids), out.codes, atol=1e-5)  # hard, one code a head


def test_config_errors():
    with pytest.raises(ValueError, match=r"memcodes.width=9: must be divisible by memcodes.heads=2"):
        memcodes.Config(heads=2, width=9)
    with pytest.raises(ValueError, match=r"memcodes.temperature=0"):
        memcodes.Config(temperature=0.0)
