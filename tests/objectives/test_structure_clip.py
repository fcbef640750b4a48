"""Structure-CLIP's losses: against an independent NumPy writing, gradients included; exchanged texts as a hinge and as
further columns; its warm-up; exact accumulation, any mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from tiny import MODALITIES

from configs.systems import structure_clip
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.models.states import States
from pretrain.objectives import contrastive, pair_hinge, triplet
from pretrain.objectives.base import Context, weighted_sum
from pretrain.objectives.contrastive import Edge
from pretrain.objectives.targets import negatives
from pretrain.schedule import at
from pretrain.step import Models, example_keys, forward

B, D, SCALE = 16, 8, 7.0
EDGE = (Edge("image", "caption"),)
NAMES = ("image", "caption", "caption/swapped", "caption/far")
CONTEXT = Context(MODALITIES, network=tiny.states(), variants=NAMES[2:])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def texts(present, same, seed):
    """Shown of the captions; of those of `same` the ids of seed 0."""
    ids = [np.random.default_rng(s).integers(40, 80, (B, 3)) for s in (0, seed)]
    shown = tiny.shown(present)
    wide = lambda x: jnp.repeat(x, 3, 1)
    tokens = jax.tree.map(wide, shown.tokens)._replace(ids=jnp.int32(np.where(same[:, None], *ids)))
    return shown._replace(tokens=tokens)


def given(seed=0, missing=0.2):
    """(outputs of random embeddings of all four, what is not there not finite; which examples have each and differ)."""
    rng, out, there = np.random.default_rng(seed), {}, {}
    for place, n in enumerate(NAMES):
        there[n], same = rng.random(B) >= missing, rng.random(B) < 0.2 * (place > 1)
        out["shown", n] = texts(there[n], same | (place < 2), place) if place else tiny.shown(there[n])
        x = np.where(there[n][:, None], unit(rng.normal(size=(B, D))), np.nan)
        out["z", n], there[n] = jnp.float32(x), there[n] & ~same
    assert all(2 < t.sum() < B for t in there.values())
    return out | {("target", key): value for key, value in out.items()}, there


def with_gradient(one, outputs):
    """(loss as in a step, its gradient by every embedding)."""

    def loss(z):
        changed = {("z", n): x for n, x in z.items()} | {("target", ("z", n)): x for n, x in z.items()}
        return weighted_sum(one, one.totals({}, outputs | changed, train=True, run=None), one.weights(outputs))

    return jax.jit(jax.value_and_grad(loss))({n: outputs["z", n] for n in NAMES})


def soft(**keys):
    return contrastive.Objective(CONTEXT, EDGE, temperature=1 / SCALE, learn="fixed", **keys)


def numpy_columns(z, there, variants):
    """(loss, gradients): rows of pictures see their own further texts, rows of texts see pictures alone."""
    both = there["image"] & there["caption"]
    rows, grads = np.flatnonzero(both), {n: np.zeros((B, D)) for n in NAMES}
    total = 0.0
    for i in rows:
        own = [n for n in variants if there[n][i]]
        candidates = [("caption", j) for j in rows] + [(n, i) for n in own]
        for query, among in ((("image", i), candidates), (("caption", i), [("image", j) for j in rows])):
            q = z[query[0]][query[1]]
            logits = np.asarray([SCALE * q @ z[n][j] for n, j in among])
            p = np.exp(logits - logits.max())
            p /= p.sum()
            place = [j for _, j in among].index(i)
            total -= 0.5 * np.log(p[place])
            slope = 0.5 * SCALE * (p - (np.arange(len(p)) == place))
            for (n, j), s in zip(among, slope):
                grads[n][j] += s * q
                grads[query[0]][query[1]] += s * z[n][j]
    return total / len(rows), {n: g / len(rows) for n, g in grads.items()}


@pytest.mark.parametrize("block", [0, 4])
@pytest.mark.parametrize("variants", [("swapped",), ("swapped", "far")])
def test_further_columns_equal_numpy(variants, block):
    outputs, there = given()
    one = soft(target=negatives.Target(variants), block=block)
    loss, grads = with_gradient(one, outputs)
    z = {n: np.float64(outputs["z", n]) for n in NAMES}
    want, slopes = numpy_columns(z, there, [f"caption/{v}" for v in variants])
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    for n, g in slopes.items():
        np.testing.assert_allclose(grads[n], g, atol=1e-5 * max(np.abs(g).max(), 1e-3), err_msg=n)
    plain, _ = with_gradient(soft(), outputs)
    assert loss > plain


def test_rows_of_texts_have_no_further_columns():
    """Trap: a further text is none of the pictures among which a text looks for its own."""
    outputs, _ = given()
    alone, beside = (soft(directions="backward", **more) for more in ({}, dict(target=negatives.Target())))
    np.testing.assert_array_equal(with_gradient(alone, outputs)[0], with_gradient(beside, outputs)[0])
    turned = contrastive.Objective(
        CONTEXT, (Edge("caption", "image"),), temperature=1 / SCALE, learn="fixed", directions="backward"
    )
    forward, _ = with_gradient(soft(directions="forward"), outputs)
    np.testing.assert_allclose(with_gradient(turned, outputs)[0], forward, rtol=1e-6)
    assert with_gradient(soft(directions="forward", target=negatives.Target()), outputs)[0] > forward


def test_the_hinge_of_a_pair_equals_numpy():
    outputs, there = given()
    one = pair_hinge.Objective(CONTEXT, EDGE, margin=0.3)
    loss, grads = with_gradient(one, outputs)
    z = {n: np.float64(outputs["z", n]) for n in NAMES}
    rows = np.flatnonzero(there["image"] & there["caption"] & there["caption/swapped"])
    total, right, slopes = 0.0, 0, {n: np.zeros((B, D)) for n in NAMES}
    for i in rows:
        image, own, other = (z[n][i] for n in NAMES[:3])
        total += max(0.0, 0.3 + image @ other - image @ own)
        right += image @ own > image @ other
        if 0.3 + image @ other - image @ own > 0:
            for n, by in zip(NAMES, (other - own, -image, image)):
                slopes[n][i] += by / len(rows)
    assert 0 < right < len(rows) and 0 < (slopes["image"].any(1)).sum() < len(rows)
    np.testing.assert_allclose(loss, total / len(rows), rtol=1e-5)
    for n, g in slopes.items():
        np.testing.assert_allclose(grads[n], g, atol=1e-6, err_msg=n)
    weights = one.weights(outputs)
    assert {float(w) for w in weights.values()} == {len(rows)}
    found = one.totals({}, outputs, train=True, run=None)["accuracy image~caption"]
    assert found == right and one.loss_weight("accuracy image~caption") == 0


@pytest.mark.parametrize("block", [0, 4])
def test_the_hinge_on_a_mean_equals_numpy(block):
    """Trap: the own pair is in the mean, as in the release."""
    outputs, there = given()
    one = triplet.Objective(CONTEXT, EDGE, negatives="mean", directions="backward", margin=0.2, block=block)
    both = there["image"] & there["caption"]
    a, b = (np.float64(outputs["z", n])[both] for n in NAMES[:2])
    want = np.mean([max(0.0, 0.2 + (a @ text).mean() - own @ text) for own, text in zip(a, b)])
    loss, grads = with_gradient(one, outputs)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert all(np.isfinite(g).all() for g in grads.values()) and np.asarray(grads["image"]).any()


@pytest.mark.parametrize(
    "one", [soft(target=negatives.Target(("swapped", "far"))), pair_hinge.Objective(CONTEXT, EDGE)]
)
def test_what_no_example_has_is_finite_and_changes_nothing(one):
    outputs, _ = given()
    for n in NAMES[2:]:
        outputs["shown", n] = outputs["target", ("shown", n)] = texts(np.zeros(B, bool), np.zeros(B, bool), 1)
        outputs["z", n] = jnp.full((B, D), jnp.nan)
    loss, grads = with_gradient(one, outputs)
    want = with_gradient(soft(), outputs)[0] if isinstance(one, contrastive.Objective) else 0.0
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert all(np.isfinite(g).all() for g in grads.values())


# -- The system --------------------------------------------------------------------------------------------------------


def config():
    """Both forms at once: ranking and hinge as published, and the further column."""
    c = structure_clip.get_config("tiny")
    for tower in c.model.towers:
        tower.update(dict(dim=16, heads=2, depth=1))
    c.model.embed_dim, c.batch_size = 8, B
    c.objectives.update(structure_clip.objectives(warmup=30))
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch that lacks a picture and some exchanged texts)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(20)
    batch["image"]["valid"][5] = False
    assert 2 < batch["text/swapped"]["valid"].any(1).sum() < B, "some names are of one word"
    batch["step"] = np.full(B, 3, np.int32)
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch)


KEYS = example_keys(0, 3, B)


def total(params, batch, step=3):
    objectives, graphs, *_ = made()
    batch = batch | {"step": jnp.full(B, step, jnp.int32)}
    return forward(graphs, params, objectives, batch, KEYS, train=True)


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def test_the_losses_equal_numpy():
    """The whole training loss, in the warm-up and after it, from the embeddings by loops over pairs."""
    objectives, graphs, params, batch = made()
    found = objectives["swapped"].passes(True)
    nodes = [found["z", n] for n in ("image", "text", "text/swapped")]
    run = jax.jit(lambda p, b: list(map(evaluate(nodes, Models(graphs, p), draw(nodes, b, KEYS), KEYS).get, nodes)))
    image, text, other = (np.float64(z) for z in run(params, batch))
    rows = [i for i in range(B) if i != 5]
    exchanged = [i for i in rows if batch["text/swapped"]["valid"][i].any()]
    s = image @ text.T
    hinge = lambda best, own: max(0.0, best + 0.2 - own)
    texts = np.mean([hinge(max(s[i, j] for j in rows if j != i), s[i, i]) for i in rows])
    pictures = np.mean([hinge(max(s[j, i] for j in rows if j != i), s[i, i]) for i in rows])
    mean = np.mean([hinge(np.mean([s[j, i] for j in rows]), s[i, i]) for i in rows])
    pair = np.mean([max(0.0, image[i] @ other[i] - s[i, i] + 0.1) for i in exchanged])
    scale, clip = float(np.exp(params["objective"]["contrastive"]["log_scale"])), 0.0
    for i in rows:
        further = [scale * image[i] @ other[i]] if i in exchanged else []
        for logits in (np.asarray([*(scale * s[i, rows]), *further]), scale * s[rows, i]):
            clip += 0.5 * (np.log(np.exp(logits).sum()) - scale * s[i, i]) / len(rows)
    run = jax.jit(total)
    for step, ranking in ((29, texts + mean), (30, texts + pictures)):
        loss, _ = run(params, batch, step)
        np.testing.assert_allclose(loss, ranking + 5 * pair + clip, rtol=2e-5, err_msg=str(step))
    assert abs(mean - pictures) > 1e-2


def test_the_warm_up_is_a_hundred_steps_and_then_over():
    made = build.objectives(build.parse(structure_clip.get_config("")))
    coefs = lambda step: tuple(float(at(made[n].coef, step)) for n in ("texts", "pictures_mean", "pictures"))
    assert [coefs(step) for step in (0, 99, 100, 5000)] == [(1, 1, 0), (1, 1, 0), (1, 0, 1), (1, 0, 1)]
    assert made["swapped"].coef == 5 and (made["swapped"].margin, made["texts"].margin) == (0.1, 0.2)
    assert coefs(None) == (1, 0, 1), "evaluation sees what it ends with"


def test_an_exchanged_text_learns_by_the_tower_of_texts():
    """Trap: a negative whose gradient is stopped pushes the picture alone."""
    (_, _), grads = undivided()
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads["objective"]))
    objectives, graphs, params, batch = made()
    only = {"swapped": objectives["swapped"]}

    def hinge(params):
        return forward(graphs, params | {"objective": {"swapped": {}}}, only, batch, KEYS, train=True)[0]

    table = jax.jit(jax.grad(hinge))(params)["model"]["text_embed"]["table"]
    words = np.unique(np.asarray(batch["text"]["ids"])[np.asarray(batch["text/swapped"]["valid"]).any(1)])
    assert np.asarray(table)[words[words > 3]].any()


@pytest.mark.slow
def test_accumulation_changes_nothing():
    laws.same_gradients(laws.gradients(*made(), KEYS, accum=2), undivided(), 2e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    roles = laws.Built(config()).roles
    laws.same_gradients(laws.gradients(*made(), KEYS, mesh="data=4,fsdp=2", roles=roles), undivided(), 2e-5)


def test_two_texts_that_are_cut_to_the_same_are_no_negative():
    """Words that are exchanged behind the last place of a text leave the same tokens."""
    objectives, *_, batch = made()
    one = objectives["swapped"]
    same = batch | {"text/swapped": jax.tree.map(lambda x: x, batch["text"])}
    count = lambda b: float(one.weights(tiny.data(one, b, KEYS))["image~text"])
    assert count(same) == 0 < count(batch)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(swapped=dict(variant="swaped")),
            "pair_hinge.variant='swaped': no transform writes 'text/swaped'; they w",
        ),
        (dict(swapped=dict(margin=0.0)), "pair_hinge.margin=0.0: must be positive"),
        (
            dict(contrastive=dict(target=dict(target="negatives", variants=["far"]))),
            "contrastive.target.variants='far'",
        ),
        (dict(contrastive=dict(target=dict(target="negatives", variants=[]))), "target.variants=(): list at least one"),
        (
            dict(contrastive=dict(edges=[dict(a="text", b="image")])),
            "no transform writes 'image/swapped'; they write te",
        ),
        (dict(texts=dict(negatives="median")), "triplet.negatives='median': must be one of all, sum, hardest, mean"),
    ],
)
def test_bad_settings_are_named(change, message):
    c = config()
    for name, keys in change.items():
        c.objectives[name].update(keys)
    with pytest.raises(ValueError, match=re.escape(message)):
        build.objectives(build.parse(c))


def test_another_model_is_shown_the_form_under_its_own_name():
    """A teacher of another run calls modalities otherwise."""
    specs = tuple(tiny.replace(m, name=f"their {m.name}") for m in MODALITIES)
    theirs = States((), specs, "old", tuple((m.name, o.name) for m, o in zip(specs, MODALITIES)))
    batch = tiny.batch(B, missing=0.0)
    batch["caption/far"] = {k: x[::-1] for k, x in batch["caption"].items()}
    shown = CONTEXT.variant("caption", "far", "here", theirs).make(batch)
    np.testing.assert_array_equal(shown.tokens.ids, batch["caption"]["ids"][::-1])


def test_a_run_without_the_transform_is_told_of_it():
    c = config()
    c.data.transforms = c.data.transforms[:2]
    with pytest.raises(ValueError, match=r"writes 'text/swapped'; they write none: add one to config.data.transforms"):
        build.objectives(build.parse(c))


def test_a_form_of_other_length_says_something_else():
    """As a picture of which some tokens are embedded is beside another one that is shown whole."""
    there = np.arange(B) % 3 > 0
    data = {("shown", "image"): tiny.shown(np.ones(B, bool)), ("shown", "image/far"): texts(there, ~there, 1)}
    np.testing.assert_array_equal(soft().differs(data, "image", "far"), there)
