"""M3PT's losses and its NeXtVLAD: against independent NumPy writings; draws that are never the own; what is refused;
accumulation, any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import m3pt
from pretrain import build
from pretrain.models.passes import draw as draw_leaves
from pretrain.models.passes import evaluate
from pretrain.objectives.sampled_matching import draw
from pretrain.phases import stages
from pretrain.restore import init_function
from pretrain.step import Models, example_keys, forward

B, KEYS = 16, example_keys(0, 3, 16)
VLAD = dict(clusters=3, groups=2, reduction=2)
LACKS = dict(image=3, text=(3, 5), tag=7)  # examples; the third has no content at all


def config():
    c = m3pt.get_config("tiny")
    size, c.batch_size = dict(dim=12, heads=2, depth=1), B
    c.model.parts = m3pt.parts(size, size, embed_dim=8, pair=1, **VLAD)
    c.objectives = m3pt.objectives(scale=4.0)
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch that lacks some of everything)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params, noise=0.3), built.batch(30)
    for name, at in LACKS.items():
        batch[name]["valid"][np.asarray(at)] = False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


@functools.cache
def outputs():
    """What `match` reads, by name, with the streams that NeXtVLAD does."""
    objectives, graphs, params, batch = made()
    one = objectives["match"]
    nodes = one.passes(True)
    nodes |= {m: one.network.stream(m, one.shown(m)) for m in ("image", "text", "tag")}
    every = list(nodes.values())
    run = lambda p, b: list(map(evaluate(every, Models(graphs, p), draw_leaves(every, b, KEYS), KEYS).get, every))
    return dict(zip(nodes, jax.device_get(jax.jit(run)(params, batch))))


def layer_norm(x, scale, bias=0.0):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_content(i, power=1):
    """Token by token, group by group, cluster by cluster; `[dim]`."""
    p = jax.tree.map(np.float64, made()[2]["model"]["content"])
    linear = lambda x, name: x @ p[name]["kernel"] + p[name]["bias"]
    tokens = [np.float64(s.x[i][s.counted[i]]) for s in (outputs()["image"], outputs()["text"])]
    size = p["centres"].shape[0]
    v = np.zeros((size, VLAD["clusters"]))
    for token in np.concatenate(tokens):
        x = linear(token, "expand")
        logits = layer_norm(linear(x, "assign"), p["assign_norm"]["scale"], p["assign_norm"]["bias"])
        weight = sigmoid(linear(x, "weigh"))
        for g in range(VLAD["groups"]):
            share = np.exp(logits[g * VLAD["clusters"] : (g + 1) * VLAD["clusters"]])
            for k in range(VLAD["clusters"]):
                v[:, k] += weight[g] * share[k] / share.sum() * (x[g * size : (g + 1) * size] - p["centres"][:, k])
    for k in range(VLAD["clusters"]):
        length = np.abs(v[:, k]).sum() if power == 1 else np.linalg.norm(v[:, k])
        v[:, k] /= max(length, 1e-12)
    v = layer_norm(v.reshape(-1), p["norm"]["scale"])
    v = v * sigmoid(linear(np.maximum(linear(v, "squeeze"), 0), "excite"))
    return v @ (p["kernel"] / np.linalg.norm(p["kernel"], axis=0))


def there():
    return [i for i in range(B) if i not in (3, 7)]


def test_contents_equal_numpy_and_are_zero_of_nothing():
    found = outputs()["side", 0, 0]
    for i in set(range(B)) - {3}:
        np.testing.assert_allclose(found[i], numpy_content(i), rtol=1e-4, atol=1e-5, err_msg=str(i))
    assert not found[3].any() and found[5].any(), "a picture is enough"


def test_the_norm_of_the_paper_is_another():
    """Trap: `F.normalize(x, 1)` divides by sums of absolute values."""
    _, graphs, params, _ = made()
    part = Models(graphs, params)["online"].content
    part.config = dataclasses.replace(part.config, power=2)
    found = part(*(jax.tree.map(jnp.asarray, outputs()[m]) for m in ("image", "text")), asked=None)
    np.testing.assert_allclose(found[0], numpy_content(0, power=2), rtol=1e-4, atol=1e-5)
    assert np.abs(found[0] - numpy_content(0)).max() > 1e-3


def pairs():
    """[(content, tag, matched)] in examples, by a walk along sums of exponents, of the numbers that were drawn."""
    z, out = {k: np.float64(outputs()["z", k]) for k in ("content", "tag")}, []
    for side, (own, other) in enumerate((("tag", "content"), ("content", "tag"))):
        for i in there():
            odds = {j: np.exp(4.0 * (z[own][i] @ z[other][j])) for j in there() if j != i}
            left = float(outputs()["draw", side][i]) * sum(odds.values())
            upto = np.cumsum(list(odds.values())) - left
            assert np.abs(upto).min() > 1e-5, "no number lies at an edge"
            j = list(odds)[int((upto <= 0).sum())]
            out.append((j, i, 0) if side == 0 else (i, j, 0))
    return [(i, i, 1) for i in there()] + out


def test_the_losses_equal_numpy():
    _, graphs, params, _ = made()
    network, own = Models(graphs, params)["online"], there()
    p = jax.tree.map(np.float64, params["model"])
    content = np.stack([numpy_content(i) for i in own]) @ p["content_project"]["linear"]["kernel"]
    tag = np.float64(outputs()["tag"].x[own, 0]) @ p["tag_project"]["linear"]["kernel"]
    content, tag = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (content, tag))
    s, n, want = content @ tag.T, len(own), {}
    softmax = lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)
    nll = lambda x: -np.log(np.diag(softmax(x))).mean()
    want["contrastive/content~tag"] = (nll(20 * s) + nll(20 * s.T)) / 2
    others = hardest = 0.0
    for d in (np.sqrt(2 - 2 * s), np.sqrt(2 - 2 * s.T)):
        for i in range(n):
            rest = np.delete(d[i], i)
            others += max(0.0, 0.1 + d[i, i] - rest.mean())
            hardest += max(0.0, 0.1 + d[i, i] - rest.min())
    want |= {"others/content~tag": others / n, "hardest/content~tag": hardest / n}
    # The pairs, one by one, through the encoder of pairs.
    chosen = pairs()
    rows = np.asarray(chosen)
    tags = jax.tree.map(lambda x: jnp.asarray(x[rows[:, 1]]), outputs()["tag"])
    contents = np.float64(outputs()["side", 0, 0])[rows[:, 0]]
    token = contents @ p["pair"]["linear"]["kernel"] + p["pair"]["linear"]["bias"]
    given = network.pair(tags, jnp.float32(contents), asked=None)
    np.testing.assert_allclose(given.x[:, -1], token, rtol=1e-4, atol=1e-5)
    assert given.valid[:, -1].all() and (given.modality[:, -1] == -1).all()
    first = np.float64(network.run("pair_encoder", given).x[:, 0])
    logits = first @ p["match"]["linear"]["kernel"] + p["match"]["linear"]["bias"]
    want["match/nll"] = -np.log(softmax(logits)[np.arange(len(rows)), rows[:, 2]]).mean()
    want["match/accuracy"] = (logits.argmax(1) == rows[:, 2]).mean()
    (loss, (terms, _)), _ = undivided()
    assert set(terms) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=5e-5, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()) - want["match/accuracy"], rtol=5e-5)


def test_draws_follow_similarity_and_are_never_the_own():
    rng, n = np.random.default_rng(0), 8
    logits = rng.normal(size=(n, n)) * 3
    logits[np.arange(n), np.arange(n)] = 50.0  # the likeliest by far
    other = ~np.eye(n, dtype=bool) & (np.arange(n) != 5)
    numbers = np.concatenate([rng.random((4000, n)), np.zeros((1, n)), np.full((1, n), 1 - 2.0**-23)])
    found = jax.jit(jax.vmap(draw, (None, None, 0)))(jnp.float32(logits), other, jnp.float32(numbers))
    for i in range(n):
        counts = np.bincount(found[:, i], minlength=n)
        assert not counts[~other[i]].any(), "the own and those that are absent are never drawn"
        want = np.where(other[i], np.exp(logits[i]), 0.0)
        np.testing.assert_allclose(counts / len(found), want / want.sum(), atol=0.03)
    even = np.bincount(jax.vmap(draw, (None, None, 0))(jnp.zeros((n, n)), other, jnp.float32(numbers[:2000]))[:, 0])
    np.testing.assert_allclose(even[[1, 2, 3, 4, 6, 7]] / 2000, 1 / 6, atol=0.03)


def test_one_example_has_its_own_pair_alone():
    objectives, graphs, params, batch = made()
    alone = batch | {m: batch[m] | {"valid": batch[m]["valid"].at[1:].set(False)} for m in ("image", "text", "tag")}
    one = {"match": objectives["match"]}
    run = jax.jit(lambda p, b: forward(graphs, p, one, b, KEYS, train=True))
    loss, (terms, _) = run(params, alone)
    assert terms["match/nll"].weight == 1 and np.isfinite(loss) and loss > 0


def test_every_part_has_a_gradient_and_the_draw_has_none():
    grads = undivided()[1]["model"]
    for part, tree in grads.items():
        assert not jax.tree.leaves(tree) or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part
    objectives, graphs, params, batch = made()
    alone = laws.gradients({"match": objectives["match"]}, graphs, params, batch, KEYS)[1]["model"]
    assert not any(np.any(x) for n in ("content_project", "tag_project") for x in jax.tree.leaves(alone[n]))
    assert np.any(alone["content"]["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize("divided", [dict(accum=2), dict(mesh="data=4,fsdp=2")])
def test_microbatches_and_devices_change_nothing(divided):
    laws.same_gradients(laws.gradients(*made(), KEYS, **divided), undivided(), 3e-4)


def test_pictures_stay_as_the_first_stage_left_them():
    (_, first), (_, second) = stages(m3pt.get_config(""))
    assert list(first.objectives) == ["contrastive"] and len(second.objectives) == 4
    assert second.train[0]["parts"] == ["image_embed", "image_encoder"] and second.train[0]["how"] == "nothing"


match = lambda **keys: lambda c: c.objectives.match.update(keys)
content = lambda **keys: lambda c: c.model.parts.content.update(keys)


def narrow(c):
    for name in ("image_embed", "image_encoder"):
        c.model.parts[name].dim = 8


@pytest.mark.parametrize(
    "change, message",
    [
        (match(head="pair_pool"), "sampled_matching.head='pair_pool': name a part that gives 2 numbers of a vector"),
        (match(head="matches"), "sampled_matching.head='matches': the network has no such part"),
        (match(scale=-1.0), "scale=-1.0: must not be negative; 0 draws evenly"),
        (match(edges=[dict(a="image", b="tag")]), "head='match': it must read image and tag, each with parts"),
        (match(edges=[dict(a="image", b="content")]), "its sides have a modality in common"),
        (match(edges=[*m3pt.EDGES, dict(a="image", b="tag")]), "edges=2: name one edge"),
        (lambda c: c.model.parts.match.update(dim=3), "head='match': name a part that gives 2 numbers"),
        (
            match(branches=[m3pt.BRANCHES[0] | dict(variant="swapped")]),
            "sampled_matching.branches=.*: leave `variant` out",
        ),
        (match(branches=[dict(name="content", part="content")]), "branches.*name a part that gives an embedding"),
        (content(groups=5), "groups=5: must divide 24, the width of expanded tokens"),
        (content(power=3), r"power=3: must be one of \(1, 2\)"),
        (content(clusters=0), "clusters=0: must be at least 1"),
        (content(reduction=99), "reduction=99: must be 0, or at most 36"),
        (narrow, "reads='text_encoder': name parts that give streams of one width"),
        (lambda c: c.model.parts.pair.update(reads=["content", "tag_encoder"]), "'pair': reads=.*name a part that"),
    ],
)
def test_what_cannot_be_is_refused_before_training(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=message):
        run = build.parse(c)
        init_function(build.models(run, build.objectives(run)), build.objectives(run), 0)
