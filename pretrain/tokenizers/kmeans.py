"""Lloyd's k-means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pretrain.tokenizers.quantizers.base import nearest

ROUNDS = 15


def kmeans(rows, count: int, rounds: int = ROUNDS, seed: int = 0):
    """rows `[n, d]`, n at least count → (means `[count, d]`, the share of the rows that is nearest to each `[count]`).

    It starts from random rows, and a mean of nothing becomes a random row.
    """
    rng = np.random.default_rng(seed)
    rows = jnp.asarray(rows, jnp.float32)
    means = rows[rng.choice(len(rows), count, replace=False)]
    for _ in range(rounds):
        means = _round(rows, means, rng.integers(len(rows), size=count))
    return means, jnp.bincount(nearest(rows, means, cosine=False), length=count) / len(rows)


@functools.partial(jax.jit, donate_argnums=1)
def _round(rows, means, spare):
    ids = nearest(rows, means, cosine=False)
    sizes = jnp.bincount(ids, length=len(means))[:, None]
    sums = jnp.zeros_like(means).at[ids].add(rows)
    return jnp.where(sizes > 0, sums / jnp.maximum(sizes, 1), rows[spare])
