"""JM3D's losses: the groups of points, the pooled views and all terms against an independent NumPy writing; what lacks
a view, a text or points; what is refused; accumulation, any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import jm3d
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.restore import init_function
from pretrain.step import Models, example_keys, forward

B, D, KEYS = 16, 12, example_keys(0, 3, 16)
FEW = dict(groups=5, neighbours=4, hidden=6)


def config(**pooled):
    c, sizes = jm3d.get_config("tiny"), dict(dim=16, heads=2, depth=1)
    c.modalities[0].update(shape=(40, 6))
    c.data.options = dict(points=40)
    parts = jm3d.points_tower(sizes, D, **FEW) | jm3d.text_tower(sizes, D)
    c.model.parts, c.batch_size = parts | jm3d.views(770, D, **(dict(degrees=4) | pooled)), B
    return c


@functools.cache
def made(**pooled):
    """(objectives, graphs, parameters that are not trivial, a batch that lacks points, views and a text, and some)."""
    built = laws.Built(config(**pooled))
    params, batch = tiny.noisy(built.params), built.batch(30)
    batch["text"]["valid"][3] = batch["points"]["valid"][5] = batch["views"]["valid"][7] = False
    batch["points"]["valid"][6, 3:] = False
    batch["views"]["valid"][8, 2:] = False
    batch["parent"]["valid"][9] = False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided(**pooled):
    return laws.gradients(*made(**pooled), KEYS)


@functools.cache
def outputs(**pooled):
    """{name: value}: of the contrastive objective's passes, the groups and, before its projection, the points' pool."""
    objectives, graphs, params, batch = made(**pooled)
    nodes = objectives["contrastive"].passes(True)
    network = objectives["contrastive"].network
    nodes["groups"] = network.call("points_embed", nodes["shown", "points"])
    nodes["pooled"] = network.pooled("points", nodes["shown", "points"])
    every = list(nodes.values())
    found = jax.jit(lambda p, b: list(map(evaluate(every, Models(graphs, p), draw(every, b, KEYS), KEYS).get, every)))
    return dict(zip(nodes, jax.device_get(found(params, batch))))


def layers(x, tree, function):
    """x through linear layers {"linears": {0: …, 1: …}}, a function between them."""
    tree = jax.tree.map(np.float64, tree["linears"])
    for i in range(len(tree)):
        x = x @ tree[i]["kernel"] + tree[i]["bias"]
        x = function(x) if i < len(tree) - 1 else x
    return x


def gelu(x):
    from scipy.special import erf

    return x * (1 + erf(x / 2**0.5)) / 2


def relu(x):
    return np.maximum(x, 0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("example", [0, 5, 6, 11])
def test_a_group_of_points_equals_numpy(example):
    """Example 6 has three points, fewer than groups; 5 has none."""
    _, _, params, batch = made()
    own, found = params["model"]["points_embed"], outputs()["groups"]
    valid = np.asarray(batch["points"]["valid"][example])
    points = np.float64(batch["points"]["vectors"][example])[valid]
    count = min(len(points), 5)
    assert found.valid[example].tolist() == [True] * count + [False] * (5 - count)
    chosen = [0]
    while 0 < len(chosen) < count:
        apart = np.square(points[:, None, :3] - points[None, chosen, :3]).sum(-1).min(1)
        chosen.append(int(apart.argmax()))
    for g, centre in enumerate(points[chosen[:count], :3] if count else ()):
        near = points[np.argsort(np.square(points[:, :3] - centre).sum(1))[:4]].copy()
        near[:, :3] -= centre
        x = layers(near, own["first"], relu)
        x = layers(np.concatenate([np.broadcast_to(x.max(0), x.shape), x], 1), own["second"], relu).max(0)
        x = x @ np.float64(own["out"]["kernel"]) + own["out"]["bias"] + layers(centre, own["place"], gelu)
        np.testing.assert_allclose(found.x[example, g], x, rtol=2e-4, atol=2e-5)
    assert not found.x[example, count:].any()


@functools.cache
def pictures(how="query"):
    """`[B, D]`, view by view."""
    _, _, params, batch = made(how=how)
    own = jax.tree.map(np.float64, params["model"]["view_pool"])
    text, out = outputs(how=how)["z", "text"], np.zeros((B, D))
    for i in range(B):
        rows = np.float64(batch["views"]["vectors"][i])[np.asarray(batch["views"]["valid"][i])]
        if not len(rows):
            continue
        v = rows[:, 2:] @ own["linear"]["kernel"] + own["linear"]["bias"]
        x = v + own["degree"][rows[:, 0].astype(int)] + own["depth"][rows[:, 1].astype(int)]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        x = unit(x * own["norm"]["scale"] + own["norm"]["bias"])
        w = np.exp(unit(v) @ text[i]) if how == "query" else np.ones(len(rows))
        w = np.eye(len(rows))[0] if how == "first" else w / w.sum()
        out[i] = w @ x
    return out


@pytest.mark.parametrize("how", ["query", "mean", "first"])
def test_pooled_views_equal_numpy(how):
    """Trap: they are not brought to length 1; weights that no temperature sharpens are close to a mean."""
    found, want = np.asarray(outputs(how=how)["z", "picture"]), pictures(how)
    there = [i for i in range(B) if i != 3]  # the embedding of no text is of no use
    np.testing.assert_allclose(found[there], want[there], rtol=2e-4, atol=2e-5)
    lengths = np.linalg.norm(found[[i for i in there if i != 7]], axis=1)
    assert (lengths <= 1 + 1e-5).all() and ((lengths < 0.99).any() or how == "first")


def cross_entropy(logits):
    logits = logits - logits.max(1, keepdims=True)
    return -np.mean(np.diag(logits) - np.log(np.exp(logits).sum(1)))


def test_the_losses_equal_numpy():
    _, _, params, batch = made()
    z = {"picture": pictures()} | {n: np.float64(outputs()["z", n]) for n in ("points", "text")}
    lacks = dict(points={5}, text={3}, picture={3, 7})
    scale = min(np.exp(float(params["objective"]["contrastive"]["log_scale"])), 100.0)
    want, loss = {}, 0.0
    for a, b in (("points", "text"), ("points", "picture"), ("text", "picture")):
        both = [i for i in range(B) if i not in lacks[a] | lacks[b]]
        s = scale * z[a][both] @ z[b][both].T
        want[f"contrastive/{a}~{b}"] = (cross_entropy(s) + cross_entropy(s.T)) / 2
        loss += want[f"contrastive/{a}~{b}"]
    own = jax.tree.map(np.float64, params["objective"]["parent"])
    raw = np.float64(outputs()["pooled"]) @ np.float64(params["model"]["points_project"]["linear"]["kernel"])
    logits = raw @ own["kernel"] + own["bias"]
    known = [i for i in range(B) if i not in (5, 9)]
    target = np.asarray(batch["parent"]["ids"])[known, 0]
    logits = logits[known] - logits[known].max(1, keepdims=True)
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(known)), target]
    want["parent/points"] = nll.mean()
    (total, (terms, _)), _ = undivided()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(total, loss + want["parent/points"] / 2, rtol=1e-4)


def test_the_scale_is_clamped_and_starts_as_clip_does():
    one = made()[0]["contrastive"]
    start = one.init(jax.random.key(0))["log_scale"]
    np.testing.assert_allclose(one.scale({"log_scale": start[...]}), 1 / 0.07, rtol=1e-6)
    np.testing.assert_allclose(one.scale({"log_scale": jnp.float32(5.0)}), np.exp(4.6052), rtol=1e-4)


def test_every_part_has_a_gradient():
    for path, x in jax.tree_util.tree_leaves_with_path(undivided()[1]):
        assert np.abs(x).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.slow
@pytest.mark.parametrize("divided", [dict(accum=2), dict(mesh="data=4,fsdp=2")])
def test_microbatches_and_devices_change_nothing(divided):
    laws.same_gradients(laws.gradients(*made(), KEYS, **divided), undivided(), 3e-4)


def test_a_side_that_there_is_not_is_not_finite():
    objectives, graphs, params, batch = made()
    wrong = batch | {"views": batch["views"] | {"vectors": batch["views"]["vectors"].at[0, 0, 0].set(4)}}
    loss = jax.jit(lambda b: forward(graphs, params, objectives, b, KEYS, train=True)[0])
    assert np.isfinite(loss(batch)) and not np.isfinite(loss(wrong))


def part(name, **changes):
    return lambda c: c.model.parts[name].update(changes)


@pytest.mark.parametrize(
    "change, message",
    [
        (part("points_embed", groups=41), r"'points_embed': groups=41: must be from 1 to the 40 points of 'points'"),
        (part("points_embed", neighbours=0), r"neighbours=0: must be from 1"),
        (part("points_embed", hidden=0), r"hidden=0: must be at least 1"),
        (part("points_embed", reads=["points", "views"]), r"name one modality of vectors whose rows are x, y, z"),
        (part("view_pool", how="max"), r"'view_pool': how='max': must be one of query, mean, first"),
        (part("view_pool", dim=16), r"dim=16: 'text_project' has 12 numbers; take as many"),
        (
            part("view_pool", reads=["text_project", "views_embed"]),
            r"name a part that gives a stream of views, and one",
        ),
        (part("view_pool", degrees=0), r"degrees=0: views have a side and a kind"),
        (lambda c: c.objectives.contrastive.branches[0].update(part="text_pool"), r"branches\[0\]\.part='text_pool'"),
        (
            lambda c: c.objectives.contrastive.update(edges=[dict(a="points", b="views")]),
            r"gives no embedding of 'views', but of",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_training(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=message):
        run = build.parse(c)
        init_function(build.models(run, build.objectives(run)), build.objectives(run), 0)


def test_what_is_read_together_is_not_embedded_alone():
    one = made()[0]["contrastive"]
    assert one.embedded == ("points", "text") and one.ends["picture"] == ("views", "text")
    alone = dataclasses.replace(one, edges=one.edges[:1])
    assert ("shown", "picture") not in alone.passes(True)
