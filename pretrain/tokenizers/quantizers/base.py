"""What a quantizer is: vectors in, codes of a finite set out, and their numbers."""

from typing import NamedTuple, Protocol

import jax


class Quantized(NamedTuple):
    """codes `[B, N, d]`, through which the gradient passes straight to z; ids int32 `[B, N · books]`; losses: {name:
    `[B]`}, means over the tokens of an example."""

    codes: jax.Array
    ids: jax.Array
    losses: dict


class Quantizer(Protocol):
    """An nnx module. A token has an id of each of its `books`: those of one token stand together, book by book.

    `encode∘decode` is the identity: `to_codes(quantizer(z).ids)` are `quantizer(z).codes`.
    """

    width: int  # d
    vocab_size: int  # codes of one book
    books: int

    def __call__(self, z, keys=None) -> Quantized:
        """z `[B, N, d]`; keys `[B]` in training, one an example, for quantizers that draw."""

    def to_codes(self, ids):
        """ids `[B, N · books]` → codes `[B, N, d]`."""
