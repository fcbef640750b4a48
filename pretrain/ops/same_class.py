"""Supervised contrast: rows among those of their own class and of others."""

import jax
import jax.numpy as jnp

from pretrain.ops.pairs import dot


def same_class_losses(z, labels, counted, temperature):
    """`[n]`: −mean over p of log softmax_j(z_i · z_j / temperature)_p, j ≠ i, p those j of the row's own class (SupCon,
    arXiv 2004.11362, equation 2); 0 of rows without another of their class.

    z `[n, D]` of unit length; labels int `[n]`; counted bool `[n]`: other rows are none.
    """
    z = jnp.where(counted[:, None], z.astype(jnp.float32), 0.0)
    other = counted & ~jnp.eye(len(z), dtype=bool)
    same = other & (labels[:, None] == labels)
    # Where nothing is left a finite number is computed, and dropped.
    logits = jnp.where(other, dot(z, z) / temperature, jnp.finfo(jnp.float32).min)
    log_p = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
    positives = same.sum(1)
    losses = -jnp.where(same, log_p, 0.0).sum(1) / jnp.maximum(positives, 1)
    return jnp.where(counted & (positives > 0), losses, 0.0)
