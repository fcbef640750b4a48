"""Squares of places against those of another network, at several granularities (SkySense, arXiv 2312.10115)."""

import jax
import jax.numpy as jnp

from pretrain.ops.assignment import sinkhorn

LEVELS = ("places", "clusters", "whole")


def level_losses(a, b, present, level: str, clusters, temperature: float):
    """What of each example of a `[B, N, D]` differs from b, `[B]`, the mean over what a level compares.

    `places`: each with the one where it lies; `clusters`, means of places that are assigned alike on both sides, by b;
    `whole`, the mean of all. −log softmax(cos / temperature) of the right one among those of the example, and of wholes
    among those of all present examples, bool `[B]`; of temperature 0 it is 1 − cos of the right one.
    clusters: (how many, epsilon, iterations), of `cluster`.
    """
    if level == "clusters":
        shares = jax.lax.stop_gradient(cluster(b, *clusters))
        a, b = (jnp.einsum("bng,bnd->bgd", shares, x) for x in (a, b))
    elif level == "whole":
        a, b = (x.mean(1)[None] for x in (a, b))  # what is compared is of the batch
    a, b = (_unit(x.astype(jnp.float32)) for x in (a, b))
    if temperature:
        cosines = jnp.einsum("bnd,bmd->bnm", a, b, precision=jax.lax.Precision.HIGHEST) / temperature
        if level == "whole":
            cosines = jnp.where(present, cosines, jnp.finfo(jnp.float32).min)
        each = -jnp.diagonal(jax.nn.log_softmax(cosines), axis1=1, axis2=2)
    else:
        each = 1 - (a * b).sum(-1)
    return each[0] if level == "whole" else each.mean(1)


def over_frames(x, counted, places: int):
    """The mean over frames, x `[B, T · places, D]` → `[B, places, D]`; counted `[B, T · places]`: which are there."""
    x, weight = (a.reshape(len(a), -1, places, *a.shape[2:]) for a in (x, counted.astype(jnp.float32)))
    return (x * weight[..., None]).sum(1) / jnp.maximum(weight.sum(1), 1)[..., None]


def cluster(x, count: int, epsilon: float, iterations: int):
    """`[B, N, count]`: how much each place of x `[B, N, D]` counts in each of so many clusters, of sum 1 over places.

    Centres start as places that are evenly spread; `iterations` times each becomes the mean of what is assigned to it,
    in about equal shares, by as many iterations of `sinkhorn`.
    """
    x, n = _unit(x.astype(jnp.float32)), x.shape[1]
    centres, everyone = x[:, :: n // count][:, :count], jnp.ones(n, bool)
    for _ in range(iterations):
        cosines = jnp.einsum("bnd,bkd->bnk", x, _unit(centres), precision=jax.lax.Precision.HIGHEST)
        shares = jax.vmap(lambda s: sinkhorn(s, everyone, iterations))(cosines / epsilon)
        shares = shares / jnp.maximum(shares.sum(1, keepdims=True), 1e-9)
        centres = jnp.einsum("bnk,bnd->bkd", shares, x)
    return shares


def _unit(x):
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
