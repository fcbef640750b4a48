"""Exact accumulation for objectives that compare examples (GradCache, arXiv 2101.06983).

Pass 1 computes the outputs of all microbatches without gradient and differentiates the loss with respect to the outputs
of the global batch. Pass 2, in the step's own accumulation loop, adds ⟨∂loss/∂z, z(microbatch)⟩ to each microbatch's
loss: its gradient is the exact one, and no more than one microbatch's activations ever exist.
"""

import jax
import jax.numpy as jnp


def split(accum: int, x):
    """`[B, …]` → microbatches `[accum, B / accum, …]`: each takes every accum-th example, so that it stays spread over
    all devices."""
    return jnp.moveaxis(x.reshape(-1, accum, *x.shape[1:]), 1, 0)


def join(x):
    """The inverse, in the order of the batch, which negatives may depend on."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])


def output_gradients(embed, compare, nodes, params, parts):
    """(totals, ∂loss/∂params at given outputs, ∂loss/∂outputs `[accum, B / accum, …]` of their floating arrays).

    embed(params, *microbatch) → {node: outputs}; compare(params, {node: outputs of the global batch}) → (loss, totals).
    """

    def one(_, part):
        values = embed(params, *part)
        return None, [values[n] for n in nodes]

    _, outputs = jax.lax.scan(one, None, parts)

    def loss(params, moved):
        return compare(params, dict(zip(nodes, jax.tree.map(join, with_moving(outputs, moved)))))

    (_, totals), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, moving(outputs))
    return totals, *gradients


def surrogate(outputs, gradients):
    """⟨∂loss/∂z, z⟩ over the floating arrays of outputs: a scalar whose gradient is the exact one."""
    return sum(jnp.vdot(jax.lax.stop_gradient(g), x) for x, g in zip(moving(outputs), gradients))


def moving(tree) -> list:
    """The floating arrays of a tree, which alone have a gradient."""
    return [x for x in jax.tree.leaves(tree) if _is_floating(x)]


def with_moving(tree, floating: list):
    """The tree with these in the place of its floating arrays."""
    given = iter(floating)
    return jax.tree.map(lambda x: next(given) if _is_floating(x) else x, tree)


def _is_floating(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def run_part(network, part: str, *args, chunks: int = 1, **options):
    """What a part gives for rows that are no node of the batch, in chunks that are computed again in the backward pass.

    args: trees with a leading axis of as many rows, a multiple of `chunks`.
    """
    call = lambda args: network.run(part, *args, **options)
    if chunks == 1:
        return call(args)
    rows = jax.tree.map(lambda x: x.reshape(chunks, -1, *x.shape[1:]), args)
    _, out = jax.lax.scan(lambda _, args: (None, jax.checkpoint(call)(args)), None, rows)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
