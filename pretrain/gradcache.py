"""Exact accumulation for objectives that compare examples (GradCache, arXiv 2101.06983).

Pass 1 embeds all microbatches without gradient and differentiates the loss with respect to the embeddings of the
global batch. Pass 2, in the step's own accumulation loop, adds ⟨∂loss/∂z, z(microbatch)⟩ to each microbatch's loss:
its gradient is the exact one, and no more than one microbatch's activations ever exist.
"""

import jax
import jax.numpy as jnp

from pretrain.objectives.base import weighted_sum


def embedding_gradients(objective, model, own, views, keys, weights):
    """views and keys `[accum, B / accum, …]`. Returns (totals, ∂loss/∂own, ∂loss/∂z `[accum, B / accum, …]`)."""
    _, z = jax.lax.scan(lambda _, vk: (None, objective.embed(model, own, *vk)), None, (views, keys))

    def loss(own, z):
        # Microbatches took every accum-th example: back to the order of the batch, which negatives may depend on.
        totals = objective.pair(own, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), z))
        return weighted_sum(objective, totals, weights), totals

    (_, totals), (d_own, d_z) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(own, z)
    return totals, d_own, d_z


def surrogate(z, d_z):
    """⟨∂loss/∂z, z⟩: a scalar whose gradient is the exact one."""
    return sum(jnp.vdot(a, jax.lax.stop_gradient(g)) for a, g in zip(jax.tree.leaves(z), jax.tree.leaves(d_z)))
