"""Sequences token by token, with the keys and values of what was written before kept (a KV cache)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.generate.draw import draw
from pretrain.generate.parallel import Conditions
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import TokenSet


@functools.partial(jax.jit, static_argnames=("graph", "target", "sentinel", "eos", "top_k", "top_p"))
def write(
    graph, params, conditions: Conditions, keys, temperature=0.0, *, target: int, sentinel: int, eos: int, top_k=0,
    top_p=1.0,
):  # fmt: skip
    """Writes a sequence after `[S_1]` until `[S_2]` or `[EOS]`; returns (ids int32 `[B, L]`, valid `[B, L]`).

    keys `[B]`. Valid are the tokens up to `[EOS]`, itself included; a closing `[S_2]` is no part of the text. The
    encoder runs once, and the loop ends when the last example has ended.
    """
    network = nnx.merge(graph, params)
    model, modality = Predictor(network), network.modalities[target]
    size, length = conditions.tokens.ids.shape[0], modality.length
    encoded = conditions.encode(model)

    def unfinished(carry):
        i, _, done, _ = carry
        return (i < length) & ~done.all()

    def body(carry):
        i, text, done, cache = carry
        last = jnp.where(i == 0, sentinel, text[:, jnp.maximum(i - 1, 0)])[:, None]
        token = TokenSet(last, jnp.full_like(last, target), jnp.full_like(last, i), jnp.ones_like(last, bool))
        y, cache = model.extend(encoded, conditions.spread(token), i, cache)
        logits = model.logits(conditions.guide(y)[:, 0], modality.vocab)
        now = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        drawn = jnp.where(done, eos, draw(now, logits, temperature, top_k, top_p))
        return i + 1, text.at[:, i].set(drawn), done | (drawn == eos) | (drawn == sentinel + 1), cache

    start = 0, jnp.full((size, length), eos, jnp.int32), jnp.zeros(size, bool), model.open_cache(encoded, length)
    _, ids, _, _ = jax.lax.while_loop(unfinished, body, start)
    ended = (ids == eos) | (ids == sentinel + 1)
    before = jnp.cumsum(ended, axis=1) - ended == 0
    return ids, before & (ids != sentinel + 1)
