"""Similarities of tokens with tokens: inside an example, and of all pairs of two lots of examples."""

import jax
import jax.numpy as jnp

LOWEST = jnp.finfo(jnp.float32).min  # the fill of masked logits: finite, so that an empty row gives no NaN


def attended_losses(x, y, x_counted, y_counted, weights, temperature):
    """`[B]`: do the tokens of x find, among those of y, what each of them alone is about?

    x `[B, N, D]`, y `[B, M, D]` of unit length; x_counted, y_counted: which tokens there are; weights `[B, N]`.
    o = unit(softmax(x yᵀ / τ) y), s = x oᵀ / τ `[B, N, N]`; the mean of the cross-entropies of s's rows and of its
    columns, each token's own place the target, summed over tokens by weight (MGCA, arXiv 2210.06044, section 3.3).
    """
    x = jnp.where(x_counted[..., None], x.astype(jnp.float32), 0.0)
    y = jnp.where(y_counted[..., None], y.astype(jnp.float32), 0.0)
    found = jax.nn.softmax(jnp.where(y_counted[:, None], _dot(x, y) / temperature, LOWEST))
    attended = jnp.einsum("bnm,bmd->bnd", found, y, precision=jax.lax.Precision.HIGHEST)
    attended *= jax.lax.rsqrt(jnp.square(attended).sum(-1, keepdims=True) + 1e-12)
    s = _dot(x, attended) / temperature
    own = jnp.diagonal(s, axis1=1, axis2=2)
    rows = jax.nn.logsumexp(jnp.where(x_counted[:, None], s, LOWEST), axis=2) - own
    columns = jax.nn.logsumexp(jnp.where(x_counted[..., None], s, LOWEST), axis=1) - own
    return jnp.where(x_counted, weights * (rows + columns) / 2, 0.0).sum(1)


def clipped_weights(weights, counted, low, high):
    """`[B, N]`: weights clipped to their own quantiles among the counted tokens, of sum 1 over these; else 0."""
    bounds = (_quantile(weights, counted, q)[:, None] for q in (low, high))
    clipped = jnp.where(counted, jnp.clip(weights, *bounds), 0.0)
    return clipped / jnp.maximum(clipped.sum(1, keepdims=True), jnp.finfo(jnp.float32).tiny)


def _quantile(x, counted, q):
    """`[B]`: of the counted entries of x `[B, N]`, linear between two of them; 0 where there are none."""
    ordered = jnp.sort(jnp.where(counted, x, jnp.inf), axis=1)
    last = jnp.maximum(counted.sum(1) - 1, 0)
    place = q * last.astype(jnp.float32)
    below = jnp.floor(place).astype(jnp.int32)
    pick = lambda i: jnp.where(counted.any(1), jnp.take_along_axis(ordered, i[:, None], axis=1)[:, 0], 0.0)
    a, b = pick(below), pick(jnp.minimum(below + 1, last))
    return a + (place - below) * (b - a)


def _dot(x, y):
    """x yᵀ of every example, in full fp32."""
    return jnp.einsum("bnd,bmd->bnm", x, y, precision=jax.lax.Precision.HIGHEST)


def late_similarity(a, b):
    """`[n, m]`: mean_w max_r ⟨a_ir, b_jw⟩: each token of b finds its best one of a (VG-BERT, arXiv 2111.07180,
    `compute_matchmap_similarity_matrix` of its release; ColBERT, arXiv 2004.12832, sums over w).

    a: (`[n, R, D]`, which tokens there are `[n, R]`), b: (`[m, W, D]`, `[m, W]`); of any length. 0 where one has none.
    """
    regions, words = a[1], b[1]
    x, y = (jnp.where(there[..., None], v, 0.0) for v, there in (a, b))
    s = jnp.einsum("ird,jwd->ijwr", x, y, precision=jax.lax.Precision.HIGHEST)
    best = jnp.where(regions[:, None, None], s, LOWEST).max(-1)
    counted = words & regions.any(1)[:, None, None]
    return jnp.where(counted, best, 0.0).sum(-1) / jnp.maximum(words.sum(1), 1)


def global_to_local(a, b):
    """`[n, m]`: ⟨w_j, LN(mean_t softmax(q_jt k_iᵀ / √d) v_i)⟩: does the whole of j fit what its tokens find in i?
    (M3EL, arXiv 2412.10440: its release).

    a: (keys, values `[n, M, d]`, which there are `[n, M]`); b: (queries `[m, T, d]`, which there are `[m, T]`, w with
    LN's scale `[m, d]`, and with its bias `[m]`). Where i or j has no token, LN is of zeros.
    """
    (keys, values, there), (queries, here, whole, bias) = a, b
    keys, values = (jnp.where(there[..., None], x, 0.0) for x in (keys, values))
    queries = jnp.where(here[..., None], queries, 0.0)
    exact = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("jtd,imd->ijtm", queries, keys, precision=exact) * keys.shape[-1] ** -0.5
    found = jax.nn.softmax(jnp.where(there[:, None, None], scores, LOWEST))
    # The mean of what tokens find is what they find on average.
    mean = jnp.einsum("ijtm,jt->ijm", found, here / jnp.maximum(here.sum(1, keepdims=True), 1), precision=exact)
    x = jnp.einsum("ijm,imd->ijd", mean, values, precision=exact)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
    return jnp.einsum("ijd,jd->ij", x, whole, precision=exact) + bias
