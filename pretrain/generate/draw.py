"""Drawing tokens from logits: temperature, top-k and top-p."""

import jax
import jax.numpy as jnp


def restrict(logits, top_k: int = 0, top_p: float = 1.0):
    """−inf for all but the `top_k` largest logits `[…, V]` (0: all), then for all but the fewest that together have the
    probability `top_p` (nucleus sampling, arXiv 1904.09751, section 3.1). What ties with the last one stays too.
    """
    if top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(f"top_k={top_k}, top_p={top_p}: need top_k >= 0 (0 for all) and 0 < top_p <= 1")
    if 0 < top_k < logits.shape[-1]:
        last = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < last, -jnp.inf, logits)
    if top_p < 1:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), -1)
        p = jax.nn.softmax(ordered, axis=-1)
        kept = jnp.cumsum(p, axis=-1) - p < top_p
        last = jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < last, -jnp.inf, logits)
    return logits


def draw(keys, logits, temperature, top_k: int = 0, top_p: float = 1.0):
    """keys `[B]`, logits `[B, …, V]` → ids int32 `[B, …]`; the arg-max where temperature is 0.

    Every example has a key of its own: what is drawn for it does not depend on the others of its batch.
    """
    greedy = logits.argmax(-1)
    warm = restrict(logits / jnp.where(temperature > 0, temperature, 1.0), top_k, top_p)
    drawn = jax.vmap(lambda key, x: jax.random.categorical(key, x))(keys, warm)
    return jnp.where(temperature > 0, drawn, greedy).astype(jnp.int32)
