"""TrainState and the train step: one jit-compiled function over a mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain import optim
from pretrain.gradcache import embedding_gradients, surrogate
from pretrain.objectives.base import Term, is_cross_example, weighted_sum


class TrainState(NamedTuple):
    """Everything that training changes: plain dicts of arrays, no RNG and no Flax types (`as_dict` on disk)."""

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any


def init_state(params, optimizer, ema: bool) -> TrainState:
    return TrainState(
        jnp.zeros((), jnp.int32), params, optim.init(optimizer, params), jax.tree.map(jnp.copy, params) if ema else None
    )


def example_keys(seed: int, step, size: int):
    """One key per position in the global batch: the same on any mesh, fresh every step, exactly repeatable."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))


def evaluate_objectives(graph, params, objectives: dict, batch, keys, *, train: bool):
    """(loss, {objective/term: Term}) of one undivided batch."""
    loss, (terms, _) = forward(graph, params, objectives, batch, keys, train=train)
    return loss, terms


def forward(graph, params, objectives: dict, batch, keys, *, train: bool):
    """(loss, ({objective/term: Term}, {objective: its statistics})) of one undivided batch."""
    model = nnx.merge(graph, params["model"])
    loss, terms, statistics = 0.0, {}, {}
    for name, objective in objectives.items():
        own, view = params["objective"][name], objective.view(batch, keys)
        weights = objective.weights(view)
        if is_cross_example(objective):
            totals = objective.pair(own, objective.embed(model, own, view, keys))
        else:
            totals = objective.totals(model, own, view, keys, train=train)
        loss += weighted_sum(objective, totals, weights)
        terms |= {f"{name}/{k}": Term(totals[k], weights[k]) for k in weights}
        statistics |= {name: totals["statistics"]} if "statistics" in totals else {}
    return loss, (terms, statistics)


def accumulate(graph, params, objectives: dict, batch, keys, accum: int, compose=lambda own: own):
    """`forward` of the whole batch from `accum` microbatches, and its gradient, equal to those of the undivided batch.

    compose: what is trained → all parameters of the network.
    """

    def split(x):  # every microbatch takes every accum-th example, so that it stays spread over all devices
        return jnp.moveaxis(x.reshape(-1, accum, *x.shape[1:]), 1, 0)

    views = {name: o.view(batch, keys) for name, o in objectives.items()}
    weights = {name: o.weights(views[name]) for name, o in objectives.items()}
    views, keys = jax.tree.map(split, views), split(keys)
    cross = {name: o for name, o in objectives.items() if is_cross_example(o)}

    full = compose(params)
    model = nnx.merge(graph, full["model"])
    cached = {
        name: embedding_gradients(o, model, full["objective"][name], views[name], keys, weights[name])
        for name, o in cross.items()
    }

    def micro_loss(params, views, keys, d_z):
        params = compose(params)
        model = nnx.merge(graph, params["model"])
        loss, totals = 0.0, {}
        for name, o in objectives.items():
            own = params["objective"][name]
            if name in cross:
                loss += surrogate(o.embed(model, own, views[name], keys), d_z[name])
            else:
                totals[name] = o.totals(model, own, views[name], keys, train=True)
                loss += weighted_sum(o, totals[name], weights[name])
        return loss, totals

    def body(carry, xs):
        (_, totals), grads = jax.value_and_grad(micro_loss, has_aux=True)(params, *xs)
        return jax.tree.map(jnp.add, carry, (totals, grads)), None

    xs = (views, keys, {name: c[2] for name, c in cached.items()})
    one = jax.eval_shape(jax.value_and_grad(micro_loss, has_aux=True), params, *jax.tree.map(lambda x: x[0], xs))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (one[0][1], one[1]))
    (totals, grads), _ = jax.lax.scan(body, zeros, xs)

    for name, (total, d_own, _) in cached.items():
        totals[name] = total
        grads["objective"][name] = jax.tree.map(jnp.add, grads["objective"][name], d_own)
    loss = sum(weighted_sum(o, totals[n], weights[n]) for n, o in objectives.items())
    terms = {f"{n}/{k}": Term(totals[n][k], weights[n][k]) for n in objectives for k in weights[n]}
    statistics = {n: t["statistics"] for n, t in totals.items() if "statistics" in t}
    return loss, (terms, statistics), grads


def update_from(statistics: dict, graph, objectives: dict, params, applied):
    """The parameters after every objective's `update` from its statistics; as they were where not `applied`."""
    for name, sums in statistics.items():
        held = params["model"]
        new = objectives[name].update(nnx.merge(graph, held), held, sums)
        params = params | {"model": jax.tree.map(lambda n, h: jnp.where(applied, n, h), new, held)}
    return params


def make_train_step(graph, objectives: dict, optimizer, *, seed: int, accum: int = 1, ema: float = 0.0, compose=None):
    """Returns step(state, batch) → (state, metrics); jit it with the state donated.

    compose: own, base → all parameters, where only a part of them is trained (`adapt.Split`): then it is step(state,
    batch, base), and the base must not be donated.

    metrics: {"loss", "grad_norm", "skipped", "skipped_in_a_row", "finite": {part: bool}, "terms": {name: Term}}.
    """

    def step(state: TrainState, batch, *base):
        def whole(own):
            return compose(own, *base) if base else own

        size = len(batch["row"])
        keys, batch = example_keys(seed, state.step, size), batch | {"step": jnp.full(size, state.step)}
        if accum > 1:
            loss, (terms, statistics), grads = accumulate(graph, state.params, objectives, batch, keys, accum, whole)
        else:
            (loss, (terms, statistics)), grads = jax.value_and_grad(
                lambda p: forward(graph, whole(p), objectives, batch, keys, train=True), has_aux=True
            )(state.params)
        squares = jax.tree.map(lambda g: jnp.square(g).sum(), grads)
        norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, opt_state = optim.apply(optimizer, grads, state.opt_state, state.params, finite)
        if not base:  # what statistics set belongs to the base, and stays
            params = update_from(statistics, graph, objectives, params, finite)
        for name, sums in statistics.items():
            terms |= {f"{name}/{k}": Term(v, jnp.float32(1)) for k, v in objectives[name].summary(sums).items()}
        metrics = {
            "loss": loss,
            "terms": terms,
            "grad_norm": norm,
            "skipped": opt_state.total_notfinite,
            "skipped_in_a_row": opt_state.notfinite_count,
            "finite": finite_parts(terms, squares),
        }
        average = None
        if ema:
            # The decay warms up, so that a short run's average is not that of its initial weights.
            decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
            average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.ema, params)
        return TrainState(state.step + 1, params, opt_state, average), metrics

    return step


def finite_parts(terms, squares) -> dict:
    """{part: bool}: which loss terms and parts of the gradient are finite, to explain a skipped step.

    squares: the gradient's tree, every array's sum of squares; one that overflows counts as not finite.
    """
    parts = {f"loss {name}": jnp.isfinite(t.total) for name, t in terms.items()}
    for owner, tree in squares.items():
        for name, part in tree.items():
            if sums := jax.tree.leaves(part):
                parts[f"gradient of {owner}/{name}"] = jnp.isfinite(sum(sums))
    return parts
