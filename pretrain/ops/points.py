"""Which points of a cloud stand for it, and which lie near them. Points are data: no gradient passes."""

import jax
import jax.numpy as jnp


def farthest(points, there, count: int):
    """(`[count, 3]`, bool `[count]`): the first point, then again and again the one farthest from all that were taken
    (farthest point sampling; PointNet++, arXiv 1706.02413, section 3.2). points `[N, 3]`; there `[N]`: which there are,
    the first ones. Of fewer than `count` points the rest is none.
    """
    points = jax.lax.stop_gradient(jnp.asarray(points))

    def take(left, _):
        at = jnp.argmax(left)
        apart = jnp.square(points - points[at]).sum(-1)
        return jnp.minimum(left, jnp.where(there, apart, -1.0)).at[at].set(-1.0), at

    _, chosen = jax.lax.scan(take, jnp.where(there, jnp.inf, -1.0), length=count)
    return points[chosen], jnp.arange(count) < there.sum()


def nearest(centres, points, there, count: int):
    """(`[G, count]`, bool `[G, count]`): the numbers of the points nearest to each centre, the nearest first, and which
    there are. centres `[G, 3]`, points `[N, 3]`, there `[N]`."""
    apart = jnp.square(centres[:, None] - points[None]).sum(-1)
    apart, numbers = jax.lax.top_k(-jnp.where(there, jax.lax.stop_gradient(apart), jnp.inf), count)
    return numbers, apart > -jnp.inf
