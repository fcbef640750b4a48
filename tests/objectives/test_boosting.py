"""Deep Boosting Learning: values and gradients by NumPy, its identity, its traps, and every kind of anchor in a run."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from laws import Built, close_trees, losses
from tiny import MODALITIES
from vector_run import config, write_split

from configs.systems import dbl
from pretrain import build
from pretrain.checkpoint import load_params
from pretrain.models.states import States
from pretrain.objectives import boosting, mutual, triplet
from pretrain.objectives.base import Context, weighted_sum
from pretrain.objectives.edges import Edge
from pretrain.schedule import at
from pretrain.step import example_keys, forward
from pretrain.train import train

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "systems" / "losses.npz")
EDGES = (Edge("image", "caption", 3.0), Edge("image", "depth"))
WIDTHS, B = dict(one=5, two=8), 16  # of the anchors' embeddings; the target has 8 numbers
SPACE = Context(MODALITIES, others=tuple(States(model=n) for n in WIDTHS))
NAMES = ("image", "caption", "depth")


def make(cls=boosting, edges=EDGES, **keys):
    return cls.Objective(SPACE, edges, **{"anchors": tuple(WIDTHS)} | keys)


def unit(x):
    return jnp.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))


def embedded(seed=0, missing=0.2):
    """Outputs of random embeddings, some of them missing and then not finite."""
    rng, out = np.random.default_rng(seed), {}
    for m in NAMES:
        there = rng.random(B) >= missing
        out["shown", m] = tiny.shown(there)
        for key, width in (("z", 8), *WIDTHS.items()):
            out[key, m] = jnp.where(there[:, None], unit(rng.normal(size=(B, width))), jnp.nan)
    return out


def loss(one, outputs):
    """As in a step: the totals over their weights, by coefficient and share."""
    return weighted_sum(one, one.totals({}, outputs, train=True, run=None), one.weights(outputs), None)


def with_gradient(one, outputs):
    """(loss, {key: its gradient})."""
    moving = {k: v for k, v in outputs.items() if k[0] != "shown"}
    return jax.jit(jax.value_and_grad(lambda z: loss(one, outputs | z)))(moving)


def hinge(x):
    return max(x, 0.0), float(x > 0)


def numpy_boost(form, margin, gamma, s, t):
    """(boost of similarities s over an anchor's t, ∂/∂s), a pair at a time."""
    total, slope, d, n = 0.0, np.zeros_like(s), s - t, len(s)
    for i in range(n):
        for line in ([(i, j) for j in range(n) if j != i], [(j, i) for j in range(n) if j != i]):
            hard = max(line, key=lambda at: d[at])
            if form == "rel":
                value, on = hinge(margin + (t[i, i] - t[hard]) - (s[i, i] - s[hard]))
                total, slope[hard], slope[i, i] = total + value, slope[hard] + on, slope[i, i] - on
            else:
                value, on = hinge(gamma * margin + t[i, i] - s[i, i])
                total, slope[i, i] = total + value, slope[i, i] - on
                value, on = hinge((1 - gamma) * margin + s[hard] - t[hard])
                total, slope[hard] = total + value, slope[hard] + on
    return total, slope


def numpy_mutual(scale, s, t):
    """(KL of t's softmax from s's, of rows and of columns, ∂/∂s)."""
    soft = lambda x, axis: np.exp(scale * x) / np.exp(scale * x).sum(axis, keepdims=True)
    total, slope = 0.0, np.zeros_like(s)
    for axis in (0, 1):
        p, q = soft(t, axis), soft(s, axis)
        total, slope = total + (p * np.log(p / q)).sum(), slope + scale * (q - p)
    return total, slope


def equals_numpy(one, boost):
    """Loss and gradients of embeddings, whatever stands where an example lacks something."""
    outputs = embedded()
    (got, grads), want = with_gradient(one, outputs), 0.0
    slopes = {m: np.zeros((B, 8)) for m in NAMES}
    for edge, share in zip(EDGES, (0.75, 0.25)):
        there = np.logical_and(*(outputs["shown", m].tokens.valid[:, 0] for m in (edge.a, edge.b)))
        of = lambda key, edge=edge, there=there: [np.float64(outputs[key, m])[there] for m in (edge.a, edge.b)]
        (a, b), size = of("z"), there.sum() if one.reduction == "mean" else 1
        for name in WIDTHS:
            x, y = of(name)
            value, slope = boost(a @ b.T, x @ y.T)
            want += share * value / len(WIDTHS) / size
            scaled = share * slope / len(WIDTHS) / size
            slopes[edge.a][there] += scaled @ b
            slopes[edge.b][there] += scaled.T @ a
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for m in NAMES:
        assert np.abs(slopes[m]).max() > 1e-3
        np.testing.assert_allclose(grads["z", m], slopes[m], atol=1e-5 * np.abs(slopes[m]).max())
        assert not any(np.asarray(grads[name, m]).any() for name in WIDTHS), "an anchor learns"


@pytest.mark.parametrize("reduction, block", [("sum", 0), ("mean", 4)])
@pytest.mark.parametrize("form, gamma", [("rel", 0.5), ("abs", 0.5), ("abs", 0.8)])
def test_equals_numpy(form, gamma, reduction, block):
    one = make(form=form, gamma=gamma, margin=0.3, reduction=reduction, block=block)
    equals_numpy(one, lambda s, t: numpy_boost(form, 0.3, gamma, s, t))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_mutual_learning_equals_numpy(reduction):
    equals_numpy(make(mutual, scale=7.0, reduction=reduction), lambda s, t: numpy_mutual(7.0, s, t))


def test_golden():
    z = {("z", "image"): "a", ("z", "caption"): "b", ("one", "image"): "c", ("one", "caption"): "d"}
    outputs = {key: unit(GOLDEN[f"in/{name}"].astype(np.float64)) for key, name in z.items()}
    outputs |= {("shown", m): tiny.shown(np.ones(6, bool)) for m in ("image", "caption")}
    one = make(edges=EDGES[:1], anchors=("one",), reduction="sum")
    np.testing.assert_allclose(loss(one, outputs), GOLDEN["out/dbl_absolute"], rtol=1e-5)
    base = triplet.Objective(SPACE, EDGES[:1], negatives="hardest", reduction="sum")
    np.testing.assert_allclose(loss(base, outputs), GOLDEN["out/vse_pp"], rtol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_relative_to_nothing_it_is_vse_pp(reduction):
    outputs = {k: v if k[0] not in WIDTHS else jnp.zeros_like(v) for k, v in embedded().items()}
    boost, grads = with_gradient(make(form="rel", reduction=reduction), outputs)
    base, want = with_gradient(triplet.Objective(SPACE, EDGES, negatives="hardest", reduction=reduction), outputs)
    np.testing.assert_allclose(boost, base, rtol=1e-6)
    for m in NAMES:
        np.testing.assert_allclose(grads["z", m], want["z", m], atol=1e-6)


def test_the_hardest_negative_is_that_of_the_difference():
    """Not the target's own hardest, which the anchor may find as hard."""
    rest = [[0.0, 0.9, 0.0], [0.0, 0.0, 0.9]]
    s, t = jnp.float32([[0.9, 0.8, 0.5], *rest]), jnp.float32([[0.9, 0.85, 0.0], *rest])
    eye, both = jnp.eye(3), jnp.ones(3, bool)
    slope = jax.grad(lambda s: make(form="rel").beside(s, eye, t, eye, both))(s)
    assert slope[0, 2] == 2 and slope[0, 1] == 0, "of its row and of its column"


@pytest.mark.parametrize("cls", [boosting, mutual])
def test_what_stands_alone_or_lacks_has_no_part(cls):
    for there in (np.zeros(B, bool), np.arange(B) == 3):
        outputs = embedded(missing=0.0) | {("shown", m): tiny.shown(there) for m in NAMES}
        one = make(cls, reduction="sum", **({} if cls is mutual else dict(form="rel")))
        got, grads = with_gradient(one, outputs)
        assert got == 0 and not any(np.asarray(g).any() for g in jax.tree.leaves(grads))


def test_a_sum_goes_with_the_size_of_the_batch():
    outputs = embedded(missing=0.0)
    mean, total = (loss(make(reduction=r), outputs) for r in ("mean", "sum"))
    np.testing.assert_allclose(total, B * mean, rtol=1e-6)
    none = outputs | {("shown", m): tiny.shown(np.zeros(B, bool)) for m in NAMES}
    assert {float(w) for w in make(reduction="sum").weights(outputs).values()} == {1.0}
    assert {float(w) for w in make(reduction="sum").weights(none).values()} == {0.0}


def test_the_hardest_negatives_and_the_boost_rise_in_the_place_of_all():
    objectives = build.objectives(build.parse(dbl.get_config()))
    coefs = lambda step: {name: float(at(o.coef, step)) for name, o in objectives.items()}
    base = {f"{k}_{m}": float(k == "all") for k in ("all", "hardest") for m in ("online", "anchor")}
    assert coefs(0) == coefs(1132) == base | {"boosting": 0.0}
    assert coefs(2264) == coefs(None) == {name: 1 - coef for name, coef in base.items()} | {"boosting": 1.0}
    assert coefs(1698)["boosting"] == coefs(1698)["hardest_online"] == 0.5
    assert all(o.reduction == "sum" for o in objectives.values())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 32), ("val", 16)):
        write_split(folder, split, count)
    return folder


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("teacher") / "run"
    train(config(data, steps=1, seed=5, model__embed_dim=6, evals={}), workdir)
    return workdir


def boosted(data, teacher, anchors=("peer", "momentum", "teacher"), **changes):
    """The three settings at once: a peer, a moving average and a finished run as anchors."""
    # From 0: the average is the target's copy at first, whose negatives are all as hard.
    rise, edges = dict(start=0.0, end=1.0, steps=2), [dict(a="a", b="b")]
    vse = dict(objective="triplet", edges=edges, negatives="hardest", reduction="sum")
    return config(
        data, steps=3, batch_size=16, models=dict(peer={}),
        references=dict(
            momentum=dict(reference="ema", momentum=0.9, schedule="cosine"),
            teacher=dict(reference="frozen", workdir=str(teacher)),
        ),
        objectives=dict(
            base=vse, peer=vse | dict(model="peer"),
            boosting=dict(edges=edges, anchors=list(anchors), form="rel", reduction="sum", coef=rise),
            mutual=dict(edges=edges, model="peer", anchors=["online"]),
        ),
        **changes,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", [dict(accum=2), dict(mesh="data=4,fsdp=2")], ids=str)
def test_accumulated_or_on_a_mesh(data, teacher, tmp_path, how):
    for name, more in (("one", {}), ("other", how)):
        train(boosted(data, teacher, evals={}, **more), tmp_path / name)
    close_trees(*(load_params(tmp_path / name) for name in ("one", "other")), 1e-4)
    one, other = (losses(tmp_path / name) for name in ("one", "other"))
    for step in one:
        for key in ("loss", "boosting/a~b", "mutual/a~b"):
            assert one[step][key] > 0
            np.testing.assert_allclose(other[step][key], one[step][key], rtol=1e-5)


def test_a_boost_moves_the_target_alone(data, teacher):
    built = Built(boosted(data, teacher))
    batch, keys = built.batch(), example_keys(0, 0, 16)
    only = {"boosting": built.objectives["boosting"]}
    run = lambda p: forward(built.graphs, p, only, batch, keys, train=True, references={"momentum": p})[0]
    params = built.params | {"objective": {"boosting": {}}}
    grads = jax.jit(jax.grad(run))(params)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads["models"]))
    assert any(np.asarray(g).any() for g in jax.tree.leaves(grads["model"]))


@pytest.mark.parametrize("arg", ["mss", "oas"])
def test_the_other_settings_build(teacher, arg):
    c = dbl.get_config(arg)
    if arg == "oas":
        with pytest.raises(ValueError, match=r"config.references.anchor: workdir='': name the workdir of a run"):
            build.parse(c)
        return
    run = build.parse(c)
    assert set(build.objectives(run)) == {"all_online", "hardest_online", "boosting"} and not run.models
    reference, params = run.references["anchor"], {"x": jnp.ones(())}
    moved = [1 - reference.update(params, {"x": jnp.zeros(())}, step, 100)["x"] for step in (0, 50, 100)]
    np.testing.assert_allclose(moved, [5e-5, 2.5e-5, 0], atol=1e-7)


def test_a_frozen_anchor_is_the_run_it_names(data, teacher):
    run = build.parse(boosted(data, teacher, anchors=["teacher"]))
    node = build.objectives(run)["boosting"].passes(True)["teacher", "a"]
    assert node.model == "teacher"


@pytest.mark.parametrize(
    "make_one, message",
    [
        (lambda: make(anchors=()), r"objectives.boosting.anchors=\(\): list other models than 'online'"),
        (lambda: make(anchors=("one", "one")), "each once: of config.models or references"),
        (lambda: make(anchors=("online",)), r"objectives.boosting.anchors=\('online',\): list other models"),
        (lambda: make(anchors=("three",)), "objectives.boosting.anchors='three': no such model; there are online, one"),
        (lambda: make(mutual, anchors=("three",)), "objectives.mutual.anchors='three'"),
        (lambda: make(form="both"), "objectives.boosting.form='both': must be one of abs, rel"),
        (lambda: make(margin=0.0), "objectives.boosting.margin=0.0: must be positive"),
        (lambda: make(gamma=1.5), "objectives.boosting.gamma=1.5: must be at least 0 and at most 1"),
        (lambda: make(reduction="max"), "objectives.boosting.reduction='max': must be one of mean, sum"),
        (lambda: make(mutual, scale=0.0), "objectives.mutual.scale=0.0: must be positive"),
        (lambda: triplet.Objective(SPACE, EDGES, reduction="all"), "objectives.triplet.reduction='all'"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(make_one, message):
    with pytest.raises(ValueError, match=message):
        make_one()


def test_an_anchor_without_such_an_embedding_is_named(data, teacher):
    run = build.parse(boosted(data, teacher))
    blind = dataclasses.replace(build.states(run), model="blind", specs=run.modalities[:1], reads=(("a", "a"),))
    context = dataclasses.replace(build.objectives(run)["base"].context, others=(blind,))
    with pytest.raises(ValueError, match=r"boosting.anchors='blind': 'blind' gives no embedding of 'b', but of a"):
        boosting.Objective(context, build.objectives(run)["base"].edges, anchors=("blind",))
