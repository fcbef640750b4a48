"""What goes to what: predictions to targets, one each at the least cost of all; examples to prototypes, in equal
shares."""

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


def sinkhorn(scores, present, iterations):
    """`[B, K]`: how much of each row goes to each of K columns, of sum 1, where all columns get about as much.

    exp(scores) whose columns, then rows are brought to one sum each, `iterations` times (Cuturi, arXiv 1306.0895; SwAV,
    arXiv 2006.09882, section 3.1), rows last. scores `[B, K]` of the global batch; present bool `[B]`: rows that are
    not take no part, and get zeros. In logarithms, so that nothing overflows. No gradient passes.
    """
    logs = jax.lax.stop_gradient(scores).astype(jnp.float32)
    counted = (present | ~present.any())[:, None]  # no empty sum, whatever is dropped below

    def once(_, logs):
        # Other factors than these are common to all entries, and the last division takes them out.
        logs = logs - jax.nn.logsumexp(jnp.where(counted, logs, -jnp.inf), axis=0)
        return logs - jax.nn.logsumexp(logs, axis=1, keepdims=True)

    logs = jax.lax.fori_loop(0, iterations, once, logs)
    return jnp.where(present[:, None], jax.nn.softmax(logs, axis=1), 0.0)
