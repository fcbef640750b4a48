"""k-means against SciPy's, and codebooks that start from it."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.cluster.vq
from flax import nnx

from pretrain.tokenizers.kmeans import ROUNDS, kmeans
from pretrain.tokenizers.quantizers import residual, vq

ROWS = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
ROWS[:, 0] *= 4


def test_equals_scipy():
    first = ROWS[np.random.default_rng(0).choice(500, 12, replace=False)]
    want, _ = scipy.cluster.vq.kmeans2(ROWS.astype(float), first.astype(float), iter=ROUNDS, minit="matrix")
    means, shares = kmeans(ROWS, 12)
    np.testing.assert_allclose(means, want, atol=1e-4)
    np.testing.assert_allclose(shares, np.bincount(scipy.cluster.vq.vq(ROWS, want)[0], minlength=12) / 500, atol=1e-7)


def test_a_mean_of_nothing_becomes_a_row():
    rows = np.repeat(np.arange(3.0)[:, None], 40, axis=0)  # 3 different ones for 5 means
    means, shares = kmeans(rows, 5)
    assert set(np.ravel(means)) == {0.0, 1.0, 2.0} and shares.sum() == 1


@pytest.mark.parametrize("cosine", [True, False])
def test_a_codebook_starts_as_what_it_would_stay(cosine):
    """Averages that see the same vectors again move no code, and renew none."""
    config = vq.Config(size=12, width=6, cosine=cosine, kmeans=500)
    q = vq.Quantizer(config, rngs=nnx.Rngs(0))
    for name, value in q.start(ROWS, len(ROWS)).items():
        getattr(q, name)[...] = value
    before = q.codebook[...]
    if cosine:
        np.testing.assert_allclose(jnp.linalg.norm(before, axis=1), 1, atol=1e-6)
    z = jnp.asarray(ROWS)[:, None]
    place = vq.Place(jnp.arange(500), jnp.int32(500), jnp.zeros((), jnp.uint32))
    sums = vq.gather(vq.Config(size=12, width=6, cosine=cosine, renew=0.0), z, q.to_ids(z), place)
    held = {n: getattr(q, n)[...] for n in ("codebook", "counts", "sums") if getattr(q, n) is not None}
    after = vq.follow(q.config, held, sums | {"renewals": jnp.full((12, 6), 99.0)})
    # The nearest mean is not always the one of the likest direction.
    np.testing.assert_allclose(after["counts"], q.counts[...], rtol=2e-3 if cosine else 1e-6)
    assert np.abs(after["codebook"] - before).max() < 0.01


def test_residual_levels_start_from_what_is_left():
    q = residual.Quantizer(residual.Config(levels=2, size=12, width=6, kmeans=500), rngs=nnx.Rngs(0))
    start = q.start(jnp.asarray(ROWS), len(ROWS))
    first, second = start["codebook"]
    left = ROWS - np.asarray(first)[scipy.cluster.vq.vq(ROWS, np.asarray(first))[0]]
    np.testing.assert_allclose(second, kmeans(left, 12)[0], atol=1e-5)
    for name, value in start.items():
        getattr(q, name)[...] = value
    error = np.square(q(jnp.asarray(ROWS)[:, None]).codes[:, 0] - ROWS).mean()
    assert error < 0.8 * np.square(left).mean() < 0.8 * np.square(ROWS).mean()


def test_too_few_vectors_are_refused():
    with pytest.raises(ValueError, match=r"vq.kmeans=8: vq.size=16 codes need as many vectors, or 0"):
        vq.Config(size=16, kmeans=8)
