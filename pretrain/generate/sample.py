"""Any-to-any sampling: grids in random order, some tokens a step (4M's ROAR), sequences token by token.

Both take a TokenSet of what is given and add to it; nothing is given twice, so outputs can be chained as inputs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrain.models.tokens import TokenSet, concat


def cosine_schedule(count: int, steps: int) -> list[int]:
    """How many of `count` tokens each step commits: few at first (MaskGIT's cosine schedule, arXiv 2202.04200)."""
    steps = min(steps, count)
    left = np.round(count * np.cos(np.pi / 2 * np.arange(1, steps + 1) / steps)).astype(int)
    left = np.minimum(left, count - np.arange(1, steps + 1))  # at least one a step
    left = np.maximum(left, 0)
    left[-1] = 0
    return list(-np.diff(np.concatenate([[count], left])))


@functools.partial(jax.jit, static_argnames=("graph", "target", "schedule", "temperature"))
def generate_grid(graph, params, given: TokenSet, key, *, target: int, schedule: tuple, temperature: float = 1.0):
    """Fills a grid modality. given `[B, N]`; target: its index; returns ids int32 `[B, L]`.

    Each step predicts the open positions from everything known, samples them, and commits a random part of them
    ("roar" in apple/ml-4m). Committing the most confident instead would paint the background first, and then
    more background. Temperature 0 takes the arg-max.
    """
    model = nnx.merge(graph, params)
    modality = model.modalities[target]
    size, length = given.ids.shape[0], modality.length
    at = jnp.broadcast_to(jnp.arange(length), (size, length))
    own = jnp.full((size, length), target)

    def commit_some(carry, step_and_count):
        ids, known, key = carry
        step, commit = step_and_count
        k_id, k_order, key = jax.random.split(jax.random.fold_in(key, step), 3)
        encoded = model.encode(concat([given, TokenSet(ids, own, at, known)]))
        logits = model.logits(model.decode(encoded, TokenSet(ids, own, at, ~known)), modality.vocab)
        drawn = logits.argmax(-1) if temperature == 0 else jax.random.categorical(k_id, logits / temperature)
        order = jnp.where(known, jnp.inf, jax.random.uniform(k_order, known.shape))
        rank = jnp.argsort(jnp.argsort(order))
        new = (rank < commit) & ~known
        return (jnp.where(new, drawn, ids), known | new, key), None

    start = jnp.zeros((size, length), jnp.int32), jnp.zeros((size, length), bool), key
    (ids, _, _), _ = jax.lax.scan(commit_some, start, (jnp.arange(len(schedule)), jnp.asarray(schedule)))
    return ids


@functools.partial(jax.jit, static_argnames=("graph", "target", "sentinel", "eos", "temperature"))
def generate_sequence(graph, params, given: TokenSet, key, *, target: int, sentinel: int, eos: int, temperature=0.0):
    """Writes a sequence modality after `[S_1]` until `[S_2]` or `[EOS]`; returns (ids `[B, L]`, valid `[B, L]`).

    Valid are the tokens up to `[EOS]`, itself included; a closing `[S_2]` is no part of the text.
    The encoder runs once; the decoder runs over the whole prefix for every token (no cache yet).
    """
    model = nnx.merge(graph, params)
    modality = model.modalities[target]
    size, length = given.ids.shape[0], modality.length
    encoded = model.encode(given)
    at = jnp.broadcast_to(jnp.arange(length), (size, length))
    own = jnp.full((size, length), target)

    def body(i, carry):
        prefix, done, key = carry
        y = model.decode(encoded, TokenSet(prefix[:, :length], own, at, at <= i))
        logits = model.logits(jax.lax.dynamic_index_in_dim(y, i, 1, keepdims=False), modality.vocab)
        key, now = jax.random.split(key)
        drawn = logits.argmax(-1) if temperature == 0 else jax.random.categorical(now, logits / temperature)
        drawn = jnp.where(done, eos, drawn)
        done = done | (drawn == eos) | (drawn == sentinel + 1)
        return prefix.at[:, i + 1].set(drawn), done, key

    start = jnp.zeros((size, length + 1), jnp.int32).at[:, 0].set(sentinel)
    prefix, _, _ = jax.lax.fori_loop(0, length, body, (start, jnp.zeros(size, bool), key))
    ids = prefix[:, 1:]
    last = (ids == eos) | (ids == sentinel + 1)
    before = jnp.cumsum(last, axis=1) - last == 0
    return ids, before & (ids != sentinel + 1)
