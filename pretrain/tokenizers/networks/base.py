"""What an encoder and a decoder are: both see tokens in raster order, on a grid of (rows, columns).

Of clips these are the rows of all times, the first one's first.
"""

from typing import Protocol


class Encoder(Protocol):
    """shape: (height, width, channels) of pixels or maps, (frames, height, width, channels) of clips, (N, width) of
    vectors, whose grid is (1, N)."""

    dim: int  # D of what it gives
    grid: tuple[int, int]  # of its N tokens

    def __init__(self, config, shape, *, dtype, rngs): ...

    def __call__(self, x):
        """x `[B, *shape]`, normalised to about [-1, 1] → `[B, N, D]`."""


class Decoder(Protocol):
    """grid: of the encoder; shape: of what it gives. ValueError if it cannot get from the one to the other.

    That of a `tokenizers.divae` is called with (x_t `[B, H, W, C]`, t `[B]`, codes `[B, N, D]`).
    """

    dim: int  # D of what it takes

    def __init__(self, config, grid, shape, *, dtype, rngs): ...

    def __call__(self, x):
        """x `[B, N, D]` → `[B, *shape]`; of label maps logits, C classes."""
