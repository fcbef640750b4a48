"""What a quantizer is: vectors in, codes of a finite set out, and their numbers."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Quantized(NamedTuple):
    """codes `[B, N, d]`, through which the gradient passes straight to z; ids int32 `[B, N · books]`; losses: {name:
    `[B]`}, means over the tokens of an example."""

    codes: jax.Array
    ids: jax.Array
    losses: dict


class Place(NamedTuple):
    """Where examples stand among the valid ones of the global batch.

    rank int32 `[B]`, -1 of those that are not valid; count: how many are; key: one for the whole batch, so that what is
    drawn with it is the same on every device and in every microbatch.
    """

    rank: jax.Array
    count: jax.Array
    key: jax.Array


class Quantizer(Protocol):
    """An nnx module. A token has an id of each of its `books`: those of one token stand together, book by book.

    `to_codes(quantizer(z).ids)` are `quantizer(z).codes`.
    """

    width: int  # d
    vocab_size: int  # codes of one book
    books: int

    # start(z, tokens) → {name: value} of what `update` sets, where codes may start from data (`config.kmeans`):
    # z `[n, d]` are vectors of the training split, tokens how many there are in a batch.

    # log_likelihoods(z, temperature) → log p(digit | z), of each digit of a code an array `[n, its values]`, of those
    # that `code_entropy` takes, else None: z `[n, d]`, p a softmax of −distance² / temperature; digits are independent
    # given z.

    def __call__(self, z, keys=None) -> Quantized:
        """z `[B, N, d]`; keys `[B]` in training, one an example, for quantizers that draw."""

    def to_codes(self, ids):
        """ids `[B, N · books]` → codes `[B, N, d]`."""

    def statistics(self, z, ids, place: Place) -> dict:
        """Sums over valid examples, of z `[B, N, d]` and their ids; `counts [books, vocab_size]` is one."""

    def update(self, statistics) -> dict:
        """{name: new value} of the parameters whose role is `statistics`, from those of the global batch."""


def straight_through(codes, z):
    """The codes, bit by bit; the gradient is that of z."""
    return jax.lax.stop_gradient(codes) + (z - jax.lax.stop_gradient(z))


def commitment(codes, z):
    """Mean of (z − codes)² over an example, `[B]`: what draws z to its codes (arXiv 1711.00937, section 3.2)."""
    return jnp.square(z - jax.lax.stop_gradient(codes)).mean((1, 2))


def code_counts(ids, valid, books: int, size: int):
    """How often the valid examples have each code: ids `[B, N · books]`, valid `[B]` → `[books, size]`."""
    ids = ids.reshape(len(ids), -1, books)
    weight = jnp.broadcast_to(valid.astype(jnp.float32)[:, None, None], ids.shape)
    return jnp.zeros((books, size)).at[jnp.arange(books), ids].add(weight)


def unit(x):
    """Rows of norm 1."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def nearest(z, codebook, cosine: bool):
    """z `[…, d]`, codebook `[K, d]` → ids int32 `[…]`, in fp32 on any device: a code must find itself."""
    z, codebook = jax.lax.stop_gradient((z, codebook))
    if cosine:
        z, codebook = unit(z), unit(codebook)
    score = jnp.einsum("...d,kd->...k", z, codebook, precision=jax.lax.Precision.HIGHEST)
    if not cosine:
        score = score - 0.5 * jnp.square(codebook).sum(-1)
    return score.argmax(-1).astype(jnp.int32)
