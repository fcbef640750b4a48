"""Which prediction answers for which target: one each, at the least cost of all."""

import jax
import jax.numpy as jnp
import optax

WORST = 1e6  # stands for a cost that is not finite, of which the algorithm would find no end


def assign(cost, valid):
    """The row of each column, int `[…, T]`, all different, of least total cost over the valid columns.

    cost `[…, Q, T]`, Q ≥ T; valid bool `[…, T]`: columns that are not get rows that are left. No gradient passes. It is
    the Hungarian algorithm (Kuhn 1955) of optax, whose loops run over columns.
    """
    if cost.shape[-2] < cost.shape[-1]:
        raise ValueError(f"cost {cost.shape}: needs as many rows as columns, or more")
    cost = jnp.nan_to_num(jax.lax.stop_gradient(cost), nan=WORST, posinf=WORST, neginf=-WORST)
    # The same for every row: what is no target does not change which rows the others get.
    cost = jnp.where(valid[..., None, :], cost, 0.0)

    def one(cost):
        columns, rows = optax.assignment.hungarian_algorithm(cost.T)
        return jnp.zeros(cost.shape[1], jnp.int32).at[columns].set(rows.astype(jnp.int32))

    return jnp.vectorize(one, signature="(q,t)->(t)")(cost)
