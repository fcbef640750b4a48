"""How many tokens each step of a parallel sampler commits, and how hot it samples."""

import numpy as np

KINDS = ("cosine", "linear")


def token_schedule(count: int, steps: int, kind: str = "cosine") -> np.ndarray:
    """How many of `count` tokens are known after each step, int `[steps]`; every step commits at least one.

    `cosine`: few at first (MaskGIT, arXiv 2202.04200, section 3.3); `linear`: as many every step.
    """
    if kind not in KINDS:
        raise ValueError(f"schedule={kind!r}: must be one of {', '.join(KINDS)}")
    if count < 1 or steps < 1:
        raise ValueError(f"count={count}, steps={steps}: must be at least 1")
    steps = min(steps, count)
    at = np.arange(1, steps + 1)
    left = 1 - at / steps if kind == "linear" else np.cos(np.pi / 2 * at / steps)
    known = count - np.round(count * left).astype(int)
    known = np.minimum(np.maximum(known, at), count - steps + at)
    return np.maximum.accumulate(known)


def temperatures(steps: int, first: float, last: float) -> np.ndarray:
    """From `first` to `last` in equal parts, float32 `[steps]`. 0 takes the arg-max."""
    if min(first, last) < 0:
        raise ValueError(f"temperature={first}, {last}: must not be negative")
    return np.linspace(first, last, steps, dtype=np.float32)
