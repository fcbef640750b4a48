"""Entropies of codes against NumPy, code by code, over the digits of every quantizer that has some."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain.objectives.base import Context
from pretrain.objectives.code_entropy import Objective, entropies
from pretrain.tokenizers.quantizers import fsq, lfq, memcodes

QUANTIZERS = {
    "lfq": lfq.Quantizer(lfq.Config(5), rngs=nnx.Rngs(0)),
    "fsq": fsq.Quantizer(fsq.Config((4, 3, 5)), rngs=nnx.Rngs(0)),
    "memcodes": memcodes.Quantizer(memcodes.Config(heads=2, size=6, width=8), rngs=nnx.Rngs(0)),
}
ALL = pytest.mark.parametrize("name", QUANTIZERS)


def vectors(name, n=30):
    return np.random.default_rng(0).normal(size=(n, QUANTIZERS[name].width)).astype(np.float32)


def numpy_digits(name, z, temperature) -> list:
    """p(digit | z) from distances or logits, one vector and one value after the other."""
    q, z = QUANTIZERS[name], z.astype(np.float64)
    if name == "memcodes":
        codes, to_k, part = *(np.float64(x[...]) for x in (q.codes, q.to_k)), q.width // q.books
        heads = [z[:, h * part : (h + 1) * part] for h in range(q.books)]
        scores = [x @ (codes[h] @ to_k[h]).T / np.sqrt(part) for h, x in enumerate(heads)]
    elif name == "fsq":
        levels = np.array(q.levels)
        half, offset = (levels - 1) * 1.001 / 2, np.where(levels % 2, 0.0, 0.5)
        values = np.tanh(z + np.arctanh(offset / half)) * half - offset
        scores = [-((values[:, [i]] - np.arange(-(n // 2), n - n // 2)) ** 2) for i, n in enumerate(levels)]
    else:
        scores = [-((z[:, [i]] - np.array([-1.0, 1.0])) ** 2) for i in range(q.width)]
    p = [np.exp((x - x.max(1, keepdims=True)) / temperature) for x in scores]
    return [x / x.sum(1, keepdims=True) for x in p]


def numpy_entropies(digits, weight, group):
    """Over all codes, one after the other."""
    sizes, n = [p.shape[1] for p in digits], len(weight)
    codes = list(itertools.product(*map(range, sizes)))
    p = np.array([[np.prod([d[i, x] for d, x in zip(digits, code)]) for code in codes] for i in range(n)])
    token = (weight * -(p * np.log(np.maximum(p, 1e-300))).sum(1)).sum() / weight.sum()
    mean, spread, start = (weight[:, None] * p).sum(0) / weight.sum(), 0.0, 0
    while start < len(sizes):
        stop = start + 1
        while stop < len(sizes) and np.prod(sizes[start : stop + 1]) <= group:
            stop += 1
        _, which = np.unique([c[start:stop] for c in codes], axis=0, return_inverse=True)
        marginal = np.bincount(which.ravel(), weights=mean)
        spread, start = spread - (marginal * np.log(marginal)).sum(), stop
    return token, spread


@ALL
@pytest.mark.parametrize("group", [2, 4, 12, 1024])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_entropies_equal_numpy(name, group, temperature):
    z, weight = vectors(name), (np.arange(30) % 4 > 0).astype(np.float32)
    got = entropies(QUANTIZERS[name].log_likelihoods(jnp.asarray(z), temperature), jnp.asarray(weight), group)
    digits = numpy_digits(name, z, temperature)
    want = numpy_entropies(digits, weight, group)
    np.testing.assert_allclose(got, want, rtol=2e-5)
    assert want[1] >= numpy_entropies(digits, weight, 10**6)[1] - 1e-9, "an upper bound"


@ALL
def test_likeliest_digits_are_the_ids(name):
    """What the entropies speak of is what the quantizer gives, in the order of its digits."""
    q, z = QUANTIZERS[name], vectors(name, 200)
    digits = [np.asarray(x).argmax(-1) for x in q.log_likelihoods(jnp.asarray(z), 1.0)]
    ids = np.asarray(q(jnp.asarray(z)[None]).ids[0])
    if name == "memcodes":
        np.testing.assert_array_equal(np.stack(digits, -1).ravel(), ids)
    else:
        sizes = q.levels if name == "fsq" else [2] * q.width
        np.testing.assert_array_equal(np.stack(digits, -1) @ np.cumprod([1, *sizes[:-1]]), ids)


@ALL
def test_entropies_have_the_gradient_of_differences(name):
    z, weight, quantizer = vectors(name, 6), np.ones(6, np.float32), QUANTIZERS[name]

    def loss(z):
        token, spread = entropies(quantizer.log_likelihoods(z, 1.0), weight, 12)
        return token - spread

    def numpy_loss(z):
        token, spread = numpy_entropies(numpy_digits(name, z, 1.0), weight, 12)
        return token - spread

    got, z = jax.grad(loss)(jnp.asarray(z)), z.astype(np.float64)
    for i in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[i] = 1e-5
        np.testing.assert_allclose(got[i], (numpy_loss(z + step) - numpy_loss(z - step)) / 2e-5, atol=1e-5)


@ALL
def test_far_vectors_stay_finite(name):
    q = QUANTIZERS[name]
    loss = lambda z: sum(entropies(q.log_likelihoods(z, 0.01), jnp.ones(2), 4))
    z = jnp.full((2, q.width), 1e4)
    assert abs(float(loss(z))) < 1e-6 and np.isfinite(jax.grad(loss)(z)).all()


@pytest.mark.parametrize("mistake", [dict(temperature=0.0), dict(group=1), dict(group=2**19)])
def test_mistakes(mistake):
    with pytest.raises(ValueError, match=r"code_entropy.temperature=.*, group=.*: must be positive, and from 2 to"):
        Objective(Context(()), **mistake)
