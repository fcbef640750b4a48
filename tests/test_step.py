"""The train step on a network of one number a feature, whose losses and gradients are written down by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from data_pipeline.spec import Modality
from pretrain import optim
from pretrain.models import network
from pretrain.models.parts import base
from pretrain.models.passes import Leaf, call
from pretrain.objectives import classification, contrastive
from pretrain.objectives.base import BATCH as BATCH_SCOPE
from pretrain.objectives.base import EXAMPLE, Term
from pretrain.objectives.corruptions import Entry
from pretrain.ops.keys import named
from pretrain.parameters import Roles, param, undecayed, values, variables
from pretrain.references import ema, snapshot
from pretrain.schedule import Ramp
from pretrain.step import AVERAGE, accumulate, example_keys, finite_parts, forward, init_state, make_train_step

X = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
BATCH = {"row": jnp.arange(8), "x": jnp.asarray(X)}


class Line(nnx.Module):
    """⟨x, scale⟩, and a draw, of every example."""

    def __init__(self):
        self.scale, self.bias = param(jnp.asarray([1.0, -2.0, 0.5])), undecayed(jnp.zeros(()))

    def __call__(self, x, asked):
        return {"y": x @ self.scale[...], "drawn": jax.vmap(jax.random.uniform)(asked.keys)}


@dataclasses.dataclass(frozen=True)
class LineConfig(base.Config):
    reads: tuple[str, ...] = ()

    def make(self, build, rngs):
        return Line()


def line():
    return network.Network(network.Config({"line": LineConfig()}), (), (), nnx.Rngs(0))


@dataclasses.dataclass(frozen=True)
class Seen:
    """The number of the step, if it is told, and a draw, of every example."""

    def __call__(self, batch, keys):
        return {"step": batch.get("step", jnp.zeros(len(keys))), "drawn": jax.vmap(jax.random.uniform)(keys)}


ENTRY = Leaf(Entry("x"))


class Mean:
    """The mean over examples of ⟨scale, x⟩² / 2, and of the step and the draws of every example."""

    coef, scope = 2.0, EXAMPLE
    init = lambda self, key: {}
    weights, loss_weight = lambda self, data: {"a": jnp.float32(len(data["x"]))}, lambda self, name: 0.5

    def __init__(self):
        self.sizes = set()  # of the batches that pass through the network at a time

    def passes(self, train):
        assert train
        return {"x": ENTRY, "line": call("line", ENTRY), "seen": Leaf(Seen())}

    def totals(self, params, outputs, *, train, run):
        assert train
        self.sizes.add(len(outputs["line"]["y"]))
        statistics = {"drawn": outputs["seen"]["drawn"].sum(), "step": outputs["seen"]["step"].sum()}
        statistics["in the part"] = outputs["line"]["drawn"].sum()
        return {"a": 0.5 * jnp.square(outputs["line"]["y"]).sum(), "statistics": statistics}

    def update(self, model, params, statistics):
        return params | {"line": params["line"] | {"bias": statistics["step"] + params["line"]["bias"]}}

    def summary(self, statistics):
        return {"drawn": statistics["drawn"]}


class Spread:
    """w times the sum of all products of two examples' embeddings, which no microbatch alone can tell."""

    coef, scope, loss_weight = 0.3, BATCH_SCOPE, lambda self, name: 1.0
    init = lambda self, key: {"w": jnp.float32(1.5)}
    passes = lambda self, train: {"x": ENTRY, "line": call("line", ENTRY)}
    weights = lambda self, data: {"b": jnp.float32(4.0)}

    def totals(self, params, outputs, *, train, run):
        z = params["w"] * outputs["line"]["y"]
        return {"b": params["w"] * z.sum() * (z * jnp.arange(8)).sum()}


OBJECTIVES = {"mean": Mean(), "spread": Spread()}


ROLES = Roles({
    "model": variables(line()), "objective": {"mean": {}, "spread": {"w": undecayed(jnp.float32(1.5))}}
})  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """({model: graph}, parameters)"""
    graph, model = nnx.split(line())
    return {"online": graph}, {
        "model": nnx.to_pure_dict(model),
        "objective": {"mean": {}, "spread": {"w": jnp.float32(1.5)}},
    }


@pytest.mark.parametrize("accum", [1, 2, 8])
def test_the_loss_and_its_gradient_are_the_formulas(made, accum):
    graphs, params = made
    keys = example_keys(0, 0, 8)
    if accum > 1:
        loss, (terms, statistics), grads = accumulate(graphs, params, OBJECTIVES, BATCH, keys, accum)
    else:
        f = lambda p: forward(graphs, p, OBJECTIVES, BATCH, keys, train=True)
        (loss, (terms, statistics)), grads = jax.value_and_grad(f, has_aux=True)(params)
    x, s, w, k = X.astype(np.float64), np.asarray([1.0, -2.0, 0.5]), 1.5, np.arange(8)
    y = x @ s
    a, b = (y**2).sum() / 2, w**3 * y.sum() * (k * y).sum()
    np.testing.assert_allclose(terms["mean/a"], (a, 8), rtol=1e-5)
    np.testing.assert_allclose(terms["spread/b"], (b, 4), rtol=1e-5)
    np.testing.assert_allclose(loss, a / 8 + 0.3 * b / 4, rtol=1e-5)
    by_scale = x.T @ y / 8 + 0.3 / 4 * w**3 * (x.sum(0) * (k * y).sum() + y.sum() * (k @ x))
    np.testing.assert_allclose(grads["model"]["line"]["scale"], by_scale, rtol=1e-4)
    np.testing.assert_allclose(grads["objective"]["spread"]["w"], 0.3 * 3 * b / w / 4, rtol=1e-4)
    drawn = sum(float(jax.random.uniform(key)) for key in keys)  # every example under its own key
    np.testing.assert_allclose(statistics["mean"]["drawn"], drawn, rtol=1e-5)
    inside = sum(float(jax.random.uniform(key)) for key in named(keys, "part", "online", "line"))
    np.testing.assert_allclose(statistics["mean"]["in the part"], inside, rtol=1e-5)


@pytest.mark.parametrize("accum", [1, 2])
def test_a_run_of_steps(made, accum):
    """The average, the number of the step that objectives see, what statistics set, and the norm of the gradient."""
    graphs, params = made
    optimizer, mean = optim.make_optimizer(optim.Config(lr=0.1), params, 100, ROLES), Mean()
    objectives = {**OBJECTIVES, "mean": mean}
    step = jax.jit(
        make_train_step(graphs, objectives, optimizer, seed=7, accum=accum, references={AVERAGE: ema.Reference(0.25)})
    )
    state = init_state(params, optimizer, (AVERAGE,))
    jax.tree.map(np.testing.assert_array_equal, state.evaluated, params)
    average, bias = params, 0.0
    for i in range(6):
        _, _, grads = accumulate(graphs, state.params, OBJECTIVES, BATCH, example_keys(7, i, 8), 2)
        state, metrics = step(state, BATCH)
        norm = sum(float(jnp.square(g).sum()) for g in jax.tree.leaves(grads)) ** 0.5
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
        drawn = sum(float(jax.random.uniform(key)) for key in example_keys(7, i, 8))
        np.testing.assert_allclose(metrics["terms"]["mean/drawn"], (drawn, 1), rtol=1e-5)
        bias += 8 * i
        np.testing.assert_array_equal(state.params["model"]["line"]["bias"], bias)
        decay = min(0.25, (1 + i) / (10 + i))  # 0.1, 0.18, 0.25, …
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.evaluated, average)
        assert mean.sizes == {8 // accum} and state.step == i + 1
        assert metrics["skipped"] == metrics["skipped_in_a_row"] == 0


def test_a_bad_step_changes_nothing_and_bad_ones_in_a_row_are_counted(made):
    graphs, params = made
    optimizer = optim.make_optimizer(optim.Config(lr=0.1), params, 100, ROLES)
    step = jax.jit(make_train_step(graphs, OBJECTIVES, optimizer, seed=7))
    state, counted = init_state(params, optimizer), []
    for i, bad in enumerate((False, True, True, True, False, True)):
        batch = {**BATCH, "x": BATCH["x"].at[5, 1].set(np.inf if bad else 1.0)}
        after, metrics = step(state, batch)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), after.params, state.params)
        assert same["model"]["line"]["scale"] == same["objective"]["spread"]["w"] == bad
        assert same["model"]["line"]["bias"] == (bad or not i) and after.step == i + 1 and not after.references
        counted.append((int(metrics["skipped"]), int(metrics["skipped_in_a_row"])))
        state = after
    assert counted == [(0, 0), (1, 1), (2, 2), (3, 3), (3, 0), (4, 1)]


class Root(Mean):
    def passes(self, train):
        names = {n: Leaf(Entry(n)) for n in ("offset", "root", "first")}
        return {"x": ENTRY, "line": call("line", names["first"])} | names

    def totals(self, params, outputs, *, train, run):
        return {"a": outputs["offset"].sum() + jnp.sqrt(outputs["root"].sum() * outputs["line"]["y"][0])}


@pytest.mark.parametrize("offset, root, good", [(0.0, 1.0, True), (np.inf, 1.0, False), (0.0, 0.0, False)])
def test_a_loss_or_a_gradient_alone_that_is_not_finite_is_enough(made, offset, root, good):
    graphs, params = made
    optimizer = optim.make_optimizer(optim.Config(lr=0.1), params, 100, ROLES)
    step = make_train_step(graphs, {"mean": Root(), "spread": OBJECTIVES["spread"]}, optimizer, seed=0)
    batch = {**BATCH, "offset": jnp.full(8, offset), "root": jnp.full(8, root), "first": jnp.eye(3)[jnp.zeros(8, int)]}
    after, metrics = step(init_state(params, optimizer), batch)
    assert np.isfinite(metrics["loss"]) == (offset == 0) and np.isfinite(metrics["grad_norm"]) == (root == 1)
    assert metrics["skipped"] == (not good) and (after.params["model"]["line"]["scale"][0] != 1) == good


LABEL = Modality("class", "labels", (1,), "class", vocab_size=3)
SHARING = {
    "contrastive": contrastive.Objective(
        tiny.context(labels=(LABEL,)), (contrastive.Edge("image", "caption"), contrastive.Edge("image", "depth"))
    ),
    "thinned": contrastive.Objective(tiny.context(), (contrastive.Edge("image", "depth"),), grid_tokens=5),
    "classification": classification.Objective(tiny.context(labels=(LABEL,)), ("image",), "class"),
    "dropping": classification.Objective(tiny.context(labels=(LABEL,)), ("image",), "class", drop_path=0.5),
}


@pytest.mark.parametrize(
    "names, lengths",
    [
        (("classification",), [(8, 16)]),
        (("contrastive",), [(8, 6), (8, 10), (8, 16)]),
        (("contrastive", "classification"), [(8, 6), (8, 10), (8, 16)]),  # the picture's is shared
        (("thinned",), [(16, 5)]),  # calls of one shape run as one
        (("classification", "dropping"), [(8, 16), (8, 16)]),  # another option, another call
    ],
    ids=lambda x: "+".join(x) if isinstance(x[0], str) else "",
)
def test_what_two_objectives_read_is_computed_once(names, lengths, monkeypatch):
    """The shapes of what passes through the encoder, and the loss is the sum of those of each alone."""
    graph, params = nnx.split(tiny.model(("image", "depth", "caption")))
    graphs = {"online": graph}
    label = {"ids": jnp.arange(8)[:, None] % 3, "valid": jnp.ones((8, 1), bool)}
    batch, keys = jax.tree.map(jnp.asarray, tiny.batch(8) | {"class": label}), example_keys(0, 0, 8)
    objectives, ran, run = {n: SHARING[n] for n in names}, [], network.Network.run
    own = {n: values(o.init(jax.random.key(1))) for n, o in objectives.items()}

    def count(self, part, *args, **more):
        if part == "encoder":
            ran.append(args[0].x.shape[:2])
        return run(self, part, *args, **more)

    monkeypatch.setattr(network.Network, "run", count)
    loss = lambda chosen: forward(
        graphs, {"model": params, "objective": own}, {n: objectives[n] for n in chosen}, batch, keys, train=True
    )[0]  # fmt: skip
    total = jax.jit(lambda: loss(names))()
    assert sorted(ran) == lengths
    np.testing.assert_allclose(total, sum(jax.jit(lambda n=n: loss((n,)))() for n in names), rtol=1e-5)


def test_keys_are_of_seed_step_and_place():
    draw = lambda *a: np.asarray(jax.vmap(jax.random.bits)(example_keys(*a)))
    every = np.concatenate([draw(0, 0, 8), draw(0, 1, 8), draw(1, 0, 8), draw(1, 1, 8)])
    assert len(np.unique(every)) == 32
    np.testing.assert_array_equal(draw(0, 3, 8)[:4], draw(0, 3, 4))


def test_what_is_not_finite_is_named():
    terms = {f"m/{name}": Term(jnp.float32(x), jnp.float32(1)) for name, x in (("a", 1), ("b", np.nan))}
    model = {"x": {"k": jnp.float32(1), "b": jnp.float32(np.inf)}, "y": jnp.float32(2)}
    squares = {"model": model, "objective": {"m": {}}}
    parts = {k: bool(v) for k, v in finite_parts(terms, squares).items()}
    assert parts == {"loss m/a": True, "loss m/b": False, "gradient of model/x": False, "gradient of model/y": True}


def test_references_follow_or_stay_and_no_gradient_reaches_them(made):
    """A teacher by its schedule, an anchor never; a loss against them has the gradient of what learns alone."""
    graphs, params = made
    steps, teacher = 4, ema.Reference(0.5, "cosine")
    references = {"teacher": teacher, "anchor": snapshot.Reference()}
    optimizer = optim.make_optimizer(optim.Config(lr=0.1, warmup=0), params, 100, ROLES)

    class Distance(Mean):
        """Half the mean squared distance to both."""

        def passes(self, train):
            return {"x": ENTRY, "line": call("line", ENTRY)} | {n: call("line", ENTRY, model=n) for n in references}

        def totals(self, params, outputs, *, train, run):
            apart = [outputs["line"]["y"] - outputs[n]["y"] - 1 for n in references]
            return {"a": sum(jnp.square(a).sum() for a in apart)}

    step = jax.jit(make_train_step(graphs, {"mean": Distance()}, optimizer, seed=7, references=references, steps=steps))
    start = {"model": params["model"], "objective": {"mean": {}}}
    state, expected = init_state(start, optimizer, references), params["model"]
    for i in range(steps):
        others = {n: np.asarray(r["model"]["line"]["scale"]) for n, r in state.references.items()}
        scale = np.asarray(state.params["model"]["line"]["scale"])
        apart = sum(X @ (scale - other) - 1 for other in others.values())
        gradient = 2 * X.T @ apart / len(X)  # coef 2 · share ½
        state, metrics = step(state, BATCH)
        np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-4)
        momentum = 1 - 0.5 * (np.cos(np.pi * i / steps) + 1) / 2
        expected = jax.tree.map(lambda a, p, m=momentum: m * a + (1 - m) * p, expected, state.params["model"])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.references["teacher"]["model"], expected
        )
        jax.tree.map(np.testing.assert_array_equal, state.references["anchor"]["model"], params["model"])


def test_a_coefficient_may_be_a_ramp(made):
    graphs, params = made

    class Ramped(Mean):
        coef = Ramp(1.0, 3.0, steps=4, begin=1)

    objectives, keys = {"mean": Ramped()}, example_keys(7, 0, 8)
    params = {"model": params["model"], "objective": {"mean": {}}}

    def loss(step):
        batch = BATCH if step is None else BATCH | {"step": jnp.full(8, step)}
        return forward(graphs, params, objectives, batch, keys, train=True)[0]

    whole = float(loss(None))
    np.testing.assert_allclose(
        [float(loss(s)) / whole for s in (0, 1, 3, 5, 9)], np.array([1, 1, 2, 3, 3]) / 3, rtol=1e-6
    )
    with pytest.raises(ValueError, match="steps=0"):
        Ramp(1.0, 2.0, steps=0)
