"""Grids and sets, several tokens a step: in random order (4M's ROAR) or the surest first (MaskGIT).

Both are one compiled scan for a number of steps; budgets, temperatures and guidance are arguments of it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.generate.draw import draw
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Shown, TokenSet

METHODS = ("roar", "maskgit")


class Conditions(NamedTuple):
    """What a sampler sees, K views of it: tokens, every field `[B, K, N]`, `dense_rows` `[B, …]`, and weights `[K]`.

    Classifier-free guidance (arXiv 2207.12598) over several conditions, as 4M has it: logits are Σ w_k · logits_k. With
    conditions c of weights w and nothing shown as the last view that is l(∅) + Σ w_c (l(c) − l(∅)) for weights
    (w, 1 − Σ w): one condition of weight 1 is no guidance, of 0 no condition, and a negative weight leads away from it.
    """

    tokens: TokenSet
    dense: dict
    weights: jax.Array

    def encode(self, model, own: TokenSet | None = None):
        """The encoder's Stream of B·K rows, example by example; own `[B, L]`: tokens that all views see."""
        tokens = self.tokens
        k = tokens.ids.shape[1]
        if own is not None:
            tokens = jax.tree.map(lambda a, b: jnp.concatenate([a, jnp.repeat(b[:, None], k, 1)], 2), tokens, own)
        dense = {n: jnp.repeat(rows, k, 0) for n, rows in self.dense.items()}
        return model.encode(Shown(jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), tokens), dense))

    def spread(self, own: TokenSet) -> TokenSet:
        """Tokens `[B, M]` for every view, `[B·K, M]`."""
        return jax.tree.map(lambda x: jnp.repeat(x, self.tokens.ids.shape[1], 0), own)

    def guide(self, y):
        """Decoder outputs `[B·K, M, D]` → `[B, M, D]`, weighted: logits are linear in them."""
        y = y.reshape(-1, self.tokens.ids.shape[1], *y.shape[1:])
        return (y * self.weights[:, None, None]).sum(1)


@functools.partial(jax.jit, static_argnames=("graph", "target", "method", "top_k", "top_p", "most"))
def fill(
    graph, params, conditions: Conditions, start, keys, known_after, temperature, noise=0.0, *, target: int,
    method="roar", top_k=0, top_p=1.0, most: int,
):  # fmt: skip
    """Makes what a grid or set lacks; returns ids int32 `[B, L]`.

    start: (ids, known) `[B, L]`, what is there already; keys `[B]`; known_after, temperature `[steps]` as of
    `token_schedule` and `temperatures`; most: the most tokens that a step of it commits. An example that has some
    tokens already gets the rest in the same proportions.
    `roar` decodes just the tokens that it commits, in an order drawn beforehand. `maskgit` decodes all that are open
    and commits the likeliest of those drawn, by log p + noise · (1 − step / steps) · Gumbel (arXiv 2202.04200, code).
    The likelihood is the model's own, before temperature: at temperature 0 too it says which token is surest.
    """
    network = nnx.merge(graph, params)
    model = Predictor(network)
    ids, known = start
    size, length = ids.shape
    every = jnp.broadcast_to(jnp.arange(length), ids.shape)
    modality = jnp.full(ids.shape, target)
    order = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 0), (length,)))(keys)
    order = jnp.argsort(jnp.where(known, -1.0, order), axis=1)  # known ones first
    rest = (~known).sum(1)
    offsets = -(-rest[:, None] * known_after // length)  # [B, steps]
    before = jnp.pad(offsets, ((0, 0), (1, 0)))[:, :-1]

    def predict(ids, known, queries):
        encoded = conditions.encode(model, TokenSet(ids, modality, every, known))
        y = conditions.guide(model.decode(encoded, conditions.spread(queries)).x)
        return model.logits(y, network.modalities[target].vocab)

    def roar(carry, step):
        ids, known = carry
        at_step, heat, since, until = step
        slot = (length - rest + since)[:, None] + jnp.arange(most)
        at = jnp.take_along_axis(order, jnp.minimum(slot, length - 1), 1)
        new = slot < (length - rest + until)[:, None]
        queries = TokenSet(jnp.zeros_like(at), modality[:, :most], at, new)
        now = _step_keys(keys, at_step)
        drawn = draw(now, predict(ids, known, queries), heat, top_k, top_p)
        row, at = jnp.arange(size)[:, None], jnp.where(new, at, length)
        return (ids.at[row, at].set(drawn, mode="drop"), known.at[row, at].set(True, mode="drop")), None

    def maskgit(carry, step):
        ids, known = carry
        at_step, heat, since, until = step
        logits = predict(ids, known, TokenSet(jnp.zeros_like(ids), modality, every, ~known))
        now = _step_keys(keys, at_step)
        drawn = draw(now, logits, heat, top_k, top_p)
        sure = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn[..., None], -1)[..., 0]
        gumbel = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, 1), (length,)))(now)
        sure += noise * (1 - at_step / len(known_after)) * gumbel
        rank = jnp.argsort(jnp.argsort(jnp.where(known, -jnp.inf, sure), axis=1, descending=True), axis=1)
        new = (rank < (until - since)[:, None]) & ~known
        return (jnp.where(new, drawn, ids), known | new), None

    step = {"roar": roar, "maskgit": maskgit}[method]
    steps = (jnp.arange(len(known_after)), temperature, before.T, offsets.T)
    (ids, _), _ = jax.lax.scan(step, (ids.astype(jnp.int32), known), steps)
    return ids


def _step_keys(keys, step):
    return jax.vmap(lambda key: jax.random.fold_in(key, step + 1))(keys)
