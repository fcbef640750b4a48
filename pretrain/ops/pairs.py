"""Losses over all pairs of the global batch: softmax, sigmoid, ranking, uniformity, and Symile's products of several.

Everywhere a and b are fp32 `[B, D]` of unit length, rows of one example at the same place, and `present` is bool `[B]`:
an absent example is no row, no column and no negative, whatever its embeddings hold. `block` and `chunk` bound the
memory (see `pretrain.ops.ring`); with 0 the whole `[B, B]` is computed at once.
"""

import functools
import math

import jax
import jax.numpy as jnp

from pretrain.ops.ring import map_rows, ring_sum
from pretrain.sharding import constrain


def softmax_losses(a, b, present, scale, *, smoothing=0.0, block=0):
    """(a→b `[B]`, b→a `[B]`): cross-entropies of the rows and columns of scale·a bᵀ (CLIP, arXiv 2103.00020).

    With label smoothing ε: (1 − ε)·CE + ε·(mean of −log p over the candidates that are present) (ALIGN, arXiv
    2102.05918).
    """
    loss = functools.partial(_cross_entropy, smoothing=smoothing)
    return _both_ways(loss, a, b, present, scale, block)


def triplet_losses(a, b, present, margin, *, hardest=False, block=0):
    """(a→b `[B]`, b→a `[B]`): relu(margin + s_ij − s_ii), the mean over j ≠ i or, with `hardest`, the greatest.

    The hardest negative is VSE++'s (arXiv 1707.05612, section 3.2). A row without negatives gives 0.
    """
    loss = functools.partial(_hinge, margin=margin, hardest=hardest)
    return _both_ways(loss, a, b, present, 1.0, block)


def sigmoid_losses(a, b, present, scale, bias, *, chunk=0):
    """`[B]`: Σ_j −log σ(z_ij (scale·a_i·b_j + bias)), z = 1 where i = j, else −1 (SigLIP, arXiv 2303.15343).

    With chunk > 0 devices pass b around a ring: none holds more than a `[chunk, B / devices]` of the pairs.
    """
    a, b = _clean(present, a, b)
    ids = jnp.where(present, jnp.arange(len(a)), -1)
    scalars = jnp.float32(scale), jnp.float32(bias)
    if chunk:
        return ring_sum(_sigmoid, scalars, (a, ids), (b, ids), chunk=chunk)
    return map_rows(_sigmoid, scalars, (a, ids), (b, ids))


def log_mean_potential(a, b, present, *, t=2.0, block=0):
    """log mean_{j≠k} exp(−t‖a_j − b_k‖²) over ordered pairs; 0.0 where fewer than two examples are present.

    With a = b the uniformity of arXiv 2005.10242; of two modalities L_X of arXiv 2405.18570.
    """
    if len(a) < 2:
        return jnp.float32(0)
    a, b = _clean(present, a, b)
    few = present.sum() < 2
    counted = present | few  # no empty sum anywhere: where there are few, a finite number is computed, and dropped

    def row(_, rows, columns):
        (a, index), (b, counted) = rows, columns
        square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * _dot(a, b)
        return jax.nn.logsumexp(jnp.where(counted & ~_own(index, counted), -t * square, -jnp.inf), axis=1)

    rows = map_rows(row, (), (a, jnp.arange(len(a))), (b, counted), block=block)
    count = counted.sum().astype(jnp.float32)  # as an integer its square overflows at 2¹⁶
    mean = jax.nn.logsumexp(jnp.where(counted, rows, -jnp.inf)) - jnp.log(count) - jnp.log(count - 1)
    return jnp.where(few, 0.0, mean)


def symile_losses(anchor, others, orders, present, scale, *, block=0):
    """`[B]`: Symile with as many candidates as examples (arXiv 2411.01053, its O(N) negatives).

    others: list of `[B, D]`; orders: as many permutations π_k, int `[B]`. Row i's logits are scale·Σ_d anchor_i Π_k
    others_k,i at i, and scale·⟨anchor_i, Π_k others_k,π_k(j)⟩ at j ≠ i where all examples π_k(j) are present.
    """
    anchor, *others = _clean(present, anchor, *others)
    own = (anchor * math.prod(others)).sum(1)
    candidates = math.prod(x[order] for x, order in zip(others, orders))
    counted = functools.reduce(jnp.logical_and, [present[order] for order in orders])

    def row(scale, rows, columns):
        (anchor, own, index), (candidates, counted) = rows, columns
        diagonal = _own(index, counted)
        logits = jnp.where(diagonal, own[:, None], _dot(anchor, candidates))
        return _cross_entropy(scale * logits, diagonal, counted)

    rows = (anchor, own, jnp.arange(len(anchor)))
    losses = map_rows(row, jnp.float32(scale), rows, (candidates, counted), block=block)
    return jnp.where(present, losses, 0.0)


def symile_losses_all(anchor, x, y, present, scale, *, block=0):
    """`[B]`: Symile of three with all B² products x_j∘y_k as candidates (arXiv 2411.01053, its O(N²) negatives).

    One y_k at a time, against all x_j: no array is larger than `[B, B]`, or `[block, B]`, forward and backward.
    """
    anchor, x, y = _clean(present, anchor, x, y)

    def row(scale, rows, columns):
        (anchor, index), (x, y, present) = rows, columns

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def with_one(y):
            logits = scale * _dot(anchor * y, x)
            return jax.nn.logsumexp(jnp.where(present | _own(index, present), logits, -jnp.inf), axis=1)

        each = jax.lax.map(with_one, y)  # [B, n], by k
        return jax.nn.logsumexp(jnp.where((present | _own(index, present)).T, each, -jnp.inf), axis=0)

    scale = jnp.float32(scale)
    total = map_rows(row, scale, (anchor, jnp.arange(len(anchor))), (x, y, present), block=block)
    return jnp.where(present, total - scale * (anchor * x * y).sum(1), 0.0)


def _both_ways(loss, a, b, present, scale, block):
    """loss(logits, own, present) → `[n]` of the rows and of the columns of scale·a bᵀ; 0 where absent."""
    a, b = _clean(present, a, b)
    scale, index = jnp.float32(scale), jnp.arange(len(a))

    def row(scale, rows, columns):
        (a, index), (b, present) = rows, columns
        return loss(scale * _dot(a, b), _own(index, present), present)

    if block:
        pair = [map_rows(row, scale, (p, index), (q, present), block=block) for p, q in ((a, b), (b, a))]
    else:
        logits, own = constrain(scale * _dot(a, b)), _own(index, present)
        pair = [loss(logits, own, present), loss(logits.T, own, present)]
    return tuple(jnp.where(present, losses, 0.0) for losses in pair)


def _cross_entropy(logits, own, present, smoothing=0.0):
    """`[n]` of logits `[n, B]`: own bool `[n, B]` marks the positive, present `[B]` the other candidates."""
    # The positive always counts, so that no row's sum is empty: absent rows are finite too, and dropped by the caller.
    total = jax.nn.logsumexp(jnp.where(present | own, logits, -jnp.inf), axis=1)
    positive = jnp.where(own, logits, 0.0).sum(1)
    if not smoothing:
        return total - positive
    mean = jnp.where(present, logits, 0.0).sum(1) / jnp.maximum(present.sum(), 1)
    return total - (1 - smoothing) * positive - smoothing * mean


def _hinge(similarity, own, present, margin, hardest):
    """`[n]`: how far negatives come within `margin` of the positive; arguments as of `_cross_entropy`."""
    negative = present & ~own
    positive = jnp.where(own, similarity, 0.0).sum(1)
    if hardest:
        return jax.nn.relu(margin + jnp.where(negative, similarity, -jnp.inf).max(1) - positive)
    hinge = jax.nn.relu(margin + similarity - positive[:, None])
    return jnp.where(negative, hinge, 0.0).sum(1) / jnp.maximum(negative.sum(1), 1)


def _sigmoid(scalars, rows, columns):
    """`[n]`: sums over the columns; ids number the examples, and are −1 for absent ones."""
    (scale, bias), (a, a_ids), (b, b_ids) = scalars, rows, columns
    logits = scale * _dot(a, b) + bias
    losses = jax.nn.softplus(jnp.where(a_ids[:, None] == b_ids, -logits, logits))
    return jnp.where((a_ids[:, None] >= 0) & (b_ids >= 0), losses, 0.0).sum(1)


def _clean(present, *embeddings):
    """fp32, with zeros where absent: a NaN there would pass a mask on the loss into the gradient."""
    return [jnp.where(present[:, None], x.astype(jnp.float32), 0.0) for x in embeddings]


def _own(index, columns):
    """bool `[n, B]`: which column is the row's own example."""
    return index[:, None] == jnp.arange(len(columns))


def _dot(a, b):
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
