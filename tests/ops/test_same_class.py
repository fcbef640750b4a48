"""Supervised contrast against a golden number; rows that do not count."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from pretrain.ops.same_class import same_class_losses

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "systems" / "losses.npz")


def test_supervised_contrast_is_the_golden_number():
    a, labels = GOLDEN["in/a"].astype(np.float64), GOLDEN["in/labels"]
    z = jnp.float32(a / np.linalg.norm(a, axis=1, keepdims=True))
    found = same_class_losses(z, jnp.asarray(labels), jnp.ones(len(z), bool), 0.07)
    counts = (labels[:, None] == labels).sum(1) - 1
    np.testing.assert_allclose(found.sum() / (counts > 0).sum(), GOLDEN["out/supcon"], rtol=1e-5)
    more = jnp.concatenate([z, jnp.full((3, z.shape[1]), jnp.nan)])
    beside = same_class_losses(more, jnp.concatenate([labels, labels[:3]]), jnp.arange(len(more)) < len(z), 0.07)
    np.testing.assert_allclose(beside[: len(z)], found, rtol=1e-6)
    assert not np.any(beside[len(z) :])
