"""Losses over all pairs of the global batch: softmax, sigmoid, ranking, uniformity, and Symile's products of several.

Everywhere a and b are fp32 `[B, D]` of unit length, rows of one example at the same place, and `present` is bool `[B]`:
an absent example is no row, no column and no negative, whatever its embeddings hold. `block` and `chunk` bound the
memory (see `pretrain.ops.ring`); with 0 the whole `[B, B]` is computed at once.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrain.ops.ring import map_rows, ring_sum
from pretrain.sharding import constrain


class Candidates(NamedTuple):
    """What rows are compared with, n of them with M candidates.

    logits `[n, M]`; weights `[n, M]`, bool or fp32: the target, a distribution over each row's candidates, without
    gradient; counted, bool `[n, M]`: which are candidates, of every row at least one.
    """

    logits: jax.Array
    weights: jax.Array
    counted: jax.Array

    def beside(self, logits, counted):
        """With further candidates behind these, of logits and counted `[n, k]`: none of the weight is theirs."""
        none = jnp.zeros(logits.shape, self.weights.dtype)
        pairs = zip(self, (logits, none, counted))
        return Candidates(*(jnp.concatenate(pair, 1) for pair in pairs))

    def toward(self, logits):
        """The same with softmax(logits), over the candidates, as the target."""
        logits = jax.lax.stop_gradient(logits)
        return self._replace(weights=jax.nn.softmax(jnp.where(self.counted, logits, -jnp.inf), axis=1))


def softmax_losses(a, b, present, scale, *, smoothing=0.0, block=0):
    """(a→b `[B]`, b→a `[B]`): cross-entropies of the rows and columns of scale·a bᵀ (CLIP, arXiv 2103.00020);
    smoothing as of `cross_entropy`."""
    divergence = functools.partial(cross_entropy, smoothing=smoothing)
    return target_losses(a, b, present, scale, divergence=divergence, block=block)


def dot(a, b):
    """a bᵀ in full fp32."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def nearness(similarity):
    """−√(2 − 2s + 1e-6), the distance of vectors of unit length with its sign turned. Without the last term its slope
    has no bound where they are equal; with it that is 1000."""
    return -jnp.sqrt(jnp.maximum(2 - 2 * similarity, 0.0) + 1e-6)


def target_losses(a, b, present, scale, target=None, sides=((), ()), *, divergence, block=0, score=dot):
    """(a→b `[B]`, b→a `[B]`): the divergence of softmax(scale·a bᵀ), of rows and of columns, from a target.

    divergence(Candidates) → `[n]`: `cross_entropy`, `kl`, `reverse_kl`.
    target(Candidates, scale, rows, columns) → Candidates: given are those that are present, their own column the
    target; sides: what it reads of a and of b, trees of arrays `[B, …]`, of which it gets those of its rows and all of
    the other side's, zeros where absent. It must not close over traced values. None leaves it at the own column.
    score(a, b) → `[n, m]`, of some of a and some of b, in the place of a bᵀ: then they may be trees of arrays `[B, …]`.
    """

    def loss(logits, own, present, scale, rows, columns):
        # The own counts always, so that no row's sum is empty: absent rows are finite too, and dropped by the caller.
        candidates = Candidates(logits, own, present | own)
        return divergence(target(candidates, scale, rows, columns) if target else candidates)

    return _both_ways(loss, a, b, present, scale, block, sides, score)


def cross_entropy(candidates: Candidates, smoothing=0.0):
    """`[n]`: −Σ_j q_j log p_j, p the softmax of the logits and q the target.

    With label smoothing ε: (1 − ε)·CE + ε·(mean of −log p over the candidates) (ALIGN, arXiv 2102.05918).
    """
    logits, weights, counted = candidates
    total = jax.nn.logsumexp(jnp.where(counted, logits, -jnp.inf), axis=1)
    expected = jnp.where(weights > 0, weights * logits, 0.0).sum(1)
    if not smoothing:
        return total - expected
    mean = jnp.where(counted, logits, 0.0).sum(1) / counted.sum(1)
    return total - (1 - smoothing) * expected - smoothing * mean


def kl(candidates: Candidates):
    """`[n]`: KL(q ‖ p), as of `cross_entropy`."""
    weights = candidates.weights.astype(jnp.float32)
    return cross_entropy(candidates) + (weights * jnp.log(jnp.where(weights > 0, weights, 1.0))).sum(1)


def reverse_kl(candidates: Candidates, epsilon):
    """`[n]`: Σ_j p_j (log p_j − log(q_j + ε)), as of `cross_entropy`."""
    logits, weights, counted = candidates
    log_p = jax.nn.log_softmax(jnp.where(counted, logits, -jnp.inf), axis=1)
    log_q = jnp.log(weights.astype(jnp.float32) + epsilon)
    return (jnp.exp(log_p) * jnp.where(counted, log_p - log_q, 0.0)).sum(1)


def triplet_losses(a, b, present, margin, *, hardest=False, block=0, score=dot):
    """(a→b `[B]`, b→a `[B]`): relu(margin + s_ij − s_ii), the mean over j ≠ i or, with `hardest`, the greatest.

    The hardest negative is VSE++'s (arXiv 1707.05612, section 3.2). A row without negatives gives 0.
    score: of `target_losses`, s.
    """
    loss = functools.partial(_hinge, margin=margin, hardest=hardest)
    return _both_ways(loss, a, b, present, 1.0, block, score=score)


def mean_losses(a, b, present, margin, *, own=True, block=0, score=dot):
    """(a→b `[B]`, b→a `[B]`): relu(margin + the mean over j of s_ij − s_ii), of all j or, without `own`, of j ≠ i.

    Without `own` a row without negatives gives 0.
    """
    return _both_ways(
        functools.partial(_hinge_of_mean, margin=margin, among=own), a, b, present, 1.0, block, score=score
    )


def absolute_losses(a, b, present, above, below, *, block=0):
    """(a→b `[B]`, b→a `[B]`): relu(above − s_ii) + the greatest relu(below + s_ij) of j ≠ i: a hinge for either alone.

    A row without negatives gives the first.
    """
    loss = functools.partial(_hinges, above=above, below=below)
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
        square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * dot(a, b)
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
        logits = jnp.where(diagonal, own[:, None], dot(anchor, candidates))
        return cross_entropy(Candidates(scale * logits, diagonal, counted | diagonal))

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
            logits = scale * dot(anchor * y, x)
            return jax.nn.logsumexp(jnp.where(present | _own(index, present), logits, -jnp.inf), axis=1)

        each = jax.lax.map(with_one, y)  # [B, n], by k
        return jax.nn.logsumexp(jnp.where((present | _own(index, present)).T, each, -jnp.inf), axis=0)

    scale = jnp.float32(scale)
    total = map_rows(row, scale, (anchor, jnp.arange(len(anchor))), (x, y, present), block=block)
    return jnp.where(present, total - scale * (anchor * x * y).sum(1), 0.0)


def _both_ways(loss, a, b, present, scale, block, sides=((), ()), score=dot):
    """loss(logits, own, present, scale, rows, columns) → `[n]` of the rows and of the columns of scale·score(a, b); 0
    where absent."""
    zeroed = lambda x: jnp.where(present.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x))
    single = lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
    a, b, x, y = jax.tree.map(zeroed, (*jax.tree.map(single, (a, b)), *sides))
    scale, index = jnp.float32(scale), jnp.arange(len(present))

    def row(score, scale, rows, columns):
        (a, index, of_rows), (b, present, of_columns) = rows, columns
        return loss(scale * score(a, b), _own(index, present), present, scale, of_rows, of_columns)

    if block:
        forward = map_rows(functools.partial(row, score), scale, (a, index, x), (b, present, y), block=block)
        turned = functools.partial(row, lambda b, a: score(a, b).T)
        pair = [forward, map_rows(turned, scale, (b, index, y), (a, present, x), block=block)]
    else:
        logits, own = constrain(scale * score(a, b)), _own(index, present)
        pair = [loss(logits, own, present, scale, x, y), loss(logits.T, own, present, scale, y, x)]
    return tuple(jnp.where(present, losses, 0.0) for losses in pair)


def _hinge(similarity, own, present, *_, margin, hardest):
    """`[n]`: how far negatives come within `margin` of the positive; arguments as of `_both_ways`."""
    negative = present & ~own
    positive = jnp.where(own, similarity, 0.0).sum(1)
    if hardest:
        return jax.nn.relu(margin + _hardest(similarity, negative) - positive)
    hinge = jax.nn.relu(margin + similarity - positive[:, None])
    return jnp.where(negative, hinge, 0.0).sum(1) / jnp.maximum(negative.sum(1), 1)


def _hinge_of_mean(similarity, own, present, *_, margin, among):
    """`[n]`; among: whether the own column is; other arguments as of `_both_ways`."""
    counted = present | own if among else present & ~own
    count = counted.sum(1)
    mean = jnp.where(counted, similarity, 0.0).sum(1) / jnp.maximum(count, 1)
    hinge = jax.nn.relu(margin + mean - jnp.where(own, similarity, 0.0).sum(1))
    return jnp.where(count > 0, hinge, 0.0)


def _hinges(similarity, own, present, *_, above, below):
    """`[n]`: how far the positive lies under `above`, and the hardest negative over −below; arguments as of
    `_both_ways`."""
    positive = jnp.where(own, similarity, 0.0).sum(1)
    return jax.nn.relu(above - positive) + jax.nn.relu(below + _hardest(similarity, present & ~own))


def _hardest(similarity, negative):
    """`[n]`: −∞ of a row without negatives."""
    return jnp.where(negative, similarity, -jnp.inf).max(1)


def _sigmoid(scalars, rows, columns):
    """`[n]`: sums over the columns; ids number the examples, and are −1 for absent ones."""
    (scale, bias), (a, a_ids), (b, b_ids) = scalars, rows, columns
    logits = scale * dot(a, b) + bias
    losses = jax.nn.softplus(jnp.where(a_ids[:, None] == b_ids, -logits, logits))
    return jnp.where((a_ids[:, None] >= 0) & (b_ids >= 0), losses, 0.0).sum(1)


def _clean(present, *embeddings):
    """fp32, with zeros where absent: a NaN there would pass a mask on the loss into the gradient."""
    return [jnp.where(present[:, None], x.astype(jnp.float32), 0.0) for x in embeddings]


def _own(index, columns):
    """bool `[n, B]`: which column is the row's own example."""
    return index[:, None] == jnp.arange(len(columns))
