"""TrainState and the train step: one jit-compiled function over a mesh."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain import optim
from pretrain.gradcache import moving, output_gradients, run_part, split, surrogate, with_moving
from pretrain.models.passes import ONLINE, Call, Leaf, constant, constants, draw, evaluate, read
from pretrain.objectives.base import BATCH, EXAMPLE, Term, weighted_sum

AVERAGE = "average"  # the reference that a run keeps with `config.ema`, and is evaluated by


class TrainState(NamedTuple):
    """Everything that training changes: plain dicts of arrays, no RNG and no Flax types (`as_dict` on disk).

    references: {name: a tree like params} of `pretrain.references`.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    references: Any

    @property
    def evaluated(self):
        """The parameters by which the run is judged: their average, if it keeps one."""
        return self.references.get(AVERAGE, self.params)


def init_state(params, optimizer, references=()) -> TrainState:
    """references: the names of those that start as copies."""
    copies = {name: jax.tree.map(jnp.copy, params) for name in references}
    return TrainState(jnp.zeros((), jnp.int32), params, optim.init(optimizer, params), copies)


def example_keys(seed: int, step, size: int):
    """One key per position in the global batch: the same on any mesh, fresh every step, exactly repeatable."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))


def evaluate_objectives(graphs, params, objectives: dict, batch, keys, *, train: bool):
    """(loss, {objective/term: Term}) of one undivided batch."""
    loss, (terms, _) = forward(graphs, params, objectives, batch, keys, train=train)
    return loss, terms


class Models(dict):
    """{name: Network}: what learns, `online` and its peers, and what these are compared with; in evaluation what learns
    stands for references that follow it."""

    def __init__(self, graphs, params, references=None):
        """graphs: {name: graph}, of `online` alone for what is like it. params: with those of every other in `models`.
        references: {name: a tree like params}; None in evaluation."""
        merge = lambda name, params: nnx.merge(graphs.get(name, graphs[ONLINE]), params)
        super().__init__({n: merge(n, held) for n, held in params.get("models", {}).items()})
        self |= {n: merge(n, jax.lax.stop_gradient(r["model"])) for n, r in (references or {}).items()}
        self[ONLINE] = merge(ONLINE, params["model"])

    def __missing__(self, name):
        return self[ONLINE]


def forward(graphs, params, objectives: dict, batch, keys, *, train: bool, references=None):
    """(loss, ({objective/term: Term}, {objective: its statistics})) of one undivided batch; references: of
    `Models`."""
    passes = Passes(objectives, train)
    data = draw(passes.nodes(), batch, keys)
    models = Models(graphs, params, references)
    values = evaluate(passes.nodes(), models, data, keys)
    run = partial(run_part, models[ONLINE])
    totals = {name: passes.totals(name, params, values, run) for name in objectives}
    return collect(objectives, totals, passes.weights(data), step_of(batch))


def step_of(batch):
    """The number of the step in training; None in evaluation."""
    return batch["step"][0] if "step" in batch else None


def collect(objectives: dict, totals: dict, weights: dict, step=None):
    """(loss, ({objective/term: Term}, {objective: its statistics})) of the totals of the whole batch."""
    loss = sum(weighted_sum(o, totals[n], weights[n], step) for n, o in objectives.items())
    terms = {f"{n}/{k}": Term(totals[n][k], weights[n][k]) for n in objectives for k in weights[n]}
    statistics = {n: t["statistics"] for n, t in totals.items() if "statistics" in t}
    return loss, (terms, statistics)


class Passes:
    """The nodes that objectives ask for."""

    def __init__(self, objectives: dict, train: bool):
        self.objectives, self.train = objectives, train
        self.named = {name: o.passes(train) for name, o in objectives.items()}

    def nodes(self, scope: str = "") -> list:
        """Each once; of the objectives of a scope, or of all."""
        chosen = (self.named[n] for n, o in self.objectives.items() if scope in ("", o.scope))
        return list(dict.fromkeys(node for passes in chosen for node in passes.values()))

    def outputs(self, name: str, values: dict) -> dict:
        """What an objective asked for."""
        return {key: values[node] for key, node in self.named[name].items()}

    def totals(self, name: str, params, values: dict, run) -> dict:
        """The totals of an objective. Profiles and plans know them by its name."""
        given = params["objective"][name], self.outputs(name, values)
        with jax.named_scope(name):
            return self.objectives[name].totals(*given, train=self.train, run=run)

    def weights(self, data: dict) -> dict:
        """{objective: {term: W}}."""
        return {
            name: o.weights({k: read(n, data) for k, n in self.named[name].items() if isinstance(n, Leaf)})
            for name, o in self.objectives.items()
        }


def accumulate(
    graphs, params, objectives: dict, batch, keys, accum: int, compose=lambda trained: trained, references=None
):
    """`forward` of the whole batch from `accum` microbatches, and its gradient, equal to those of the undivided batch.

    compose: what is trained → all parameters of the network. references: of `Models`.
    """
    passes = Passes(objectives, train=True)
    data = draw(passes.nodes(), batch, keys)
    weights, step = passes.weights(data), step_of(batch)
    drawn, parts = list(data), jax.tree.map(partial(split, accum), (list(data.values()), keys))
    again = lambda values: dict(zip(drawn, values))  # corruptions cannot be sorted, as the keys of JAX's dicts are
    compared = [n for n in passes.nodes(BATCH) if isinstance(n, Call) and not constant(n)]
    merge = lambda params: Models(graphs, params, references)

    # What no example changes is computed once, and whatever reads it adds to the gradient of its floating arrays.
    fixed = constants(passes.nodes())

    def compute_fixed(params):
        values = evaluate(fixed, merge(compose(params)), {}, keys)
        return moving([values[n] for n in fixed]), [values[n] for n in fixed]

    moves, pull, held = jax.vjp(compute_fixed, params, has_aux=True)
    learned = params, moves

    def opened(learned):
        """All parameters of the network, and {node: value} of what is fixed."""
        return compose(learned[0]), dict(zip(fixed, with_moving(held, learned[1])))

    totals, grads, d_outputs = {}, None, ()
    if BATCH in {o.scope for o in objectives.values()}:
        whole = {n: read(n, data) for n in passes.nodes(BATCH) if not isinstance(n, Call)}

        def compare(learned, values):
            (params, known), totals = opened(learned), {}
            run = partial(run_part, merge(params)[ONLINE], chunks=accum)
            for name in (n for n, o in objectives.items() if o.scope == BATCH):
                totals[name] = passes.totals(name, params, whole | known | values, run)
            return sum(weighted_sum(objectives[n], t, weights[n], step) for n, t in totals.items()), totals

        def embed(learned, made, keys):
            params, known = opened(learned)
            return evaluate(compared, merge(params), again(made), keys, known=known)

        totals, grads, d_outputs = output_gradients(embed, compare, compared, learned, parts)

    def micro_loss(learned, made, keys, d_outputs):
        params, known = opened(learned)
        models = merge(params)
        values, totals, loss = evaluate(passes.nodes(), models, again(made), keys, known=known), {}, 0.0
        if d_outputs:
            loss += surrogate([values[n] for n in compared], d_outputs)
        for name in (n for n, o in objectives.items() if o.scope == EXAMPLE):
            totals[name] = passes.totals(name, params, values, partial(run_part, models[ONLINE]))
            loss += weighted_sum(objectives[name], totals[name], weights[name], step)
        return loss, totals

    def body(carry, part):
        (_, totals), grads = jax.value_and_grad(micro_loss, has_aux=True)(learned, *part)
        return jax.tree.map(jnp.add, carry, (totals, grads)), None

    each = (*parts, d_outputs)
    one = jax.eval_shape(jax.value_and_grad(micro_loss, has_aux=True), learned, *jax.tree.map(lambda x: x[0], each))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), one[0][1])
    grads = jax.tree.map(jnp.zeros_like, learned) if grads is None else grads
    (summed, (grads, d_moves)), _ = jax.lax.scan(body, (zeros, grads), each)
    if fixed:
        grads = jax.tree.map(jnp.add, grads, pull(d_moves)[0])
    loss, more = collect(objectives, totals | summed, weights, step)
    return loss, more, grads


def update_from(statistics: dict, graphs, objectives: dict, params, applied):
    """The parameters after every objective's `update` from its statistics; as they were where not `applied`."""
    for name, sums in statistics.items():
        held = params["model"]
        new = objectives[name].update(nnx.merge(graphs[ONLINE], held), held, sums)
        params = params | {"model": jax.tree.map(lambda n, h: jnp.where(applied, n, h), new, held)}
    return params


def make_train_step(
    graphs, objectives: dict, optimizer, *, seed: int, accum: int = 1, references=None, steps: int = 1, split=None
):
    """Returns step(state, batch) → (state, metrics); jit it with the state donated.

    graphs: {name: graph} of the models (`Models`).

    split: `adapt.Split`, where only a part of the parameters is trained: then it is step(state, batch, base), and the
    base must not be donated.

    references: {name: Reference} of `pretrain.references`; steps: of the whole run, for their schedules.

    metrics: {"loss", "grad_norm", "skipped", "skipped_in_a_row", "finite": {part: bool}, "terms": {name: Term}}.
    """

    def step(state: TrainState, batch, *base):
        def whole(trained):
            return split.compose(trained, *base) if base else trained

        size, others = len(batch["row"]), {n: whole(r) for n, r in state.references.items()}
        keys, batch = example_keys(seed, state.step, size), batch | {"step": jnp.full(size, state.step)}
        if accum > 1:
            loss, (terms, statistics), grads = accumulate(
                graphs, state.params, objectives, batch, keys, accum, whole, others
            )
        else:
            (loss, (terms, statistics)), grads = jax.value_and_grad(
                lambda p: forward(graphs, whole(p), objectives, batch, keys, train=True, references=others),
                has_aux=True,
            )(state.params)
        squares = jax.tree.map(lambda g: jnp.square(g).sum(), grads)
        norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, opt_state = optim.apply(optimizer, grads, state.opt_state, state.params, finite)
        if statistics:
            new = update_from(statistics, graphs, objectives, whole(params), finite)
            params = split.put(params, new) if base else new
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
        after = {
            name: r.update(state.references[name], params, state.step, steps) for name, r in (references or {}).items()
        }
        return TrainState(state.step + 1, params, opt_state, after), metrics

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
