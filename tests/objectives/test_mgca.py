"""MGCA's losses: against independent NumPy writings; its traps; what is refused; exact accumulation, any mesh."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import mgca
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.restore import init_function
from pretrain.step import Models, example_keys, forward

B, FROZEN = 16, 20


def config():
    c = mgca.get_config("tiny")
    towers = dict(image=dict(dim=24, heads=2, depth=2), text=dict(dim=16, heads=2, depth=2))
    c.model.parts, c.batch_size = mgca.parts(towers, 8, 12), B
    c.objectives = mgca.objectives(prototypes=6, frozen_steps=FROZEN)
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch that lacks a text and a picture)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(30)
    batch["text"]["valid"][3], batch["image"]["valid"][5] = False, False
    step = {"step": jnp.full(B, FROZEN, jnp.int32)}
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | step


KEYS = example_keys(0, 3, B)


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def log_softmax(x, axis=-1):
    x = np.asarray(x, np.float64)
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def head(x, own):
    """Linear, ReLU, linear, to unit length."""
    a, b = own["linears"][0], own["linears"][1]
    y = np.maximum(np.float64(x) @ a["kernel"] + a["bias"], 0) @ b["kernel"] + b["bias"]
    return y / np.linalg.norm(y, axis=-1, keepdims=True)


def local(x, y, weights):
    """Of one example: tokens x `[n, d]`, each by what it attends to in y `[m, d]`."""
    o = np.exp(log_softmax(x @ y.T / 0.1)) @ y
    o /= np.linalg.norm(o, axis=1, keepdims=True)
    s = x @ o.T / 0.1
    return -sum(weights * (np.diag(log_softmax(s, 1)) + np.diag(log_softmax(s, 0)))) / 2


def clipped(weights):
    kept = np.clip(weights, np.quantile(weights, 0.1), np.quantile(weights, 0.9))
    return kept / kept.sum()


def shares(scores):
    q = np.exp(np.float64(scores))
    for _ in range(3):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdims=True)
    return q


def test_the_losses_equal_numpy():
    """The whole of the training loss, from what the encoders give and attend to."""
    objectives, graphs, params, batch = made()
    network, tokens = objectives["contrastive"].network, objectives["token_contrast"].passes(True)
    nodes = [tokens["watched", key] for key in "ab"]
    run = lambda p, b: list(map(evaluate(nodes, Models(graphs, p), draw(nodes, b, KEYS), KEYS).get, nodes))
    streams = jax.device_get(jax.jit(run)(params, batch))
    p = jax.tree.map(np.float64, params)
    both = [i for i in range(B) if i not in (3, 5)]
    z, t, counted, weights = {}, {}, {}, {}
    for m, stream in zip(("image", "text"), streams):
        z[m] = head(stream.x[:, 0], p["model"][f"{m}_project"]["linear"])[both]
        t[m] = head(stream.x[:, 1:], p["model"][f"{m}_tokens"]["layers"])
        counted[m], weights[m] = stream.valid[:, 1:], np.float64(stream.aux["first"][:, -1, 1:])
    assert network.embed_dim == 8 and counted["text"].sum(1).min() == 0 and counted["text"].sum() < B * 10

    logits = z["image"] @ z["text"].T / 0.07
    want = {"contrastive/image~text": -np.mean(np.diag(log_softmax(logits, 1)) + np.diag(log_softmax(logits, 0)))}
    of = lambda m, i: (t[m][i][counted[m][i]], clipped(weights[m][i][counted[m][i]]))
    sides = [(of(a, i), of(b, i)) for i in both for a, b in (("image", "text"), ("text", "image"))]
    want["token_contrast/nll"] = sum(local(x, y, w) for (x, w), (y, _) in sides) / len(both)
    c = p["objective"]["prototypes"]["prototypes"]
    s = {m: z[m] @ (c / np.linalg.norm(c, axis=1, keepdims=True)).T for m in z}
    swapped = sum(
        (shares(s[a] / 0.05) * log_softmax(s[b] / 0.2)).sum() for a, b in (("image", "text"), ("text", "image"))
    )
    want["prototypes/image~text"] = -swapped / 2 / len(both)

    (loss, (terms, _)), _ = undivided()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=2e-5, err_msg=name)
    assert {n for n, term in terms.items()} == set(want)
    np.testing.assert_allclose(loss, np.dot(list(want.values()), [1.0, 0.7, 0.5]), rtol=2e-5)


def test_every_part_has_a_gradient_and_prototypes_none_in_the_first_epoch():
    objectives, graphs, params, batch = made()
    grads = undivided()[1]
    for part, tree in {**grads["model"], **grads["objective"]}.items():
        assert not jax.tree.leaves(tree) or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part
    early = batch | {"step": jnp.full(B, FROZEN - 1, jnp.int32)}
    loss = lambda p, b: forward(graphs, p, objectives, b, KEYS, train=True)[0]
    value, still = jax.device_get(jax.jit(jax.value_and_grad(loss))(params, early))
    assert (still["objective"]["prototypes"]["prototypes"] == 0).all()
    np.testing.assert_allclose(value, undivided()[0][0], rtol=1e-6)
    laws.close_trees(still["model"], grads["model"], 1e-4)


def test_nothing_of_padding_reaches_the_loss():
    """Trap: in the release a pad is silenced by its weight alone, and stays a negative."""
    objectives, graphs, params, batch = made()
    one = {"token_contrast": objectives["token_contrast"]}
    own = params | {"objective": {"token_contrast": {}}}
    loss = jax.jit(lambda b: forward(graphs, own, one, b, KEYS, train=True)[0])
    ids = jnp.where(batch["text"]["valid"], batch["text"]["ids"], 77)
    np.testing.assert_array_equal(loss(batch | {"text": batch["text"] | {"ids": ids}}), loss(batch))


def test_uniform_weights_need_no_attention():
    c = config()
    c.objectives = dict(token_contrast=c.objectives.token_contrast.to_dict() | dict(weighting="uniform"))
    for part in c.model.parts.values():
        if part["part"] == "watched_encoder":
            part["part"] = "encoder"
    built, batch = laws.Built(c), made()[3]
    outputs = built.objectives["token_contrast"]
    graphs, params = built.graphs, built.params
    _, (terms, _) = jax.jit(lambda b: forward(graphs, params, {"token_contrast": outputs}, b, KEYS, train=True))(batch)
    assert ("watched", "a") not in outputs.passes(True) and np.isfinite(terms["token_contrast/nll"].total)


@pytest.mark.slow
def test_accumulation_changes_nothing():
    laws.same_gradients(laws.gradients(*made(), KEYS, accum=2), undivided(), 2e-4)


@pytest.mark.slow
def test_eight_devices_are_one():
    """Sinkhorn's sums over the examples too: on what a device holds alone they would be others."""
    laws.same_gradients(laws.gradients(*made(), KEYS, mesh="data=4,fsdp=2"), undivided(), 2e-4)


tokens, swapped = lambda c: c.objectives.token_contrast.update, lambda c: c.objectives.prototypes.update


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: tokens(c)(a="image"), r"token_contrast\.a='image': the network has no such part"),
        (lambda c: tokens(c)(a="image_pool"), r"token_contrast\.a='image_pool': name a part that gives a stream"),
        (lambda c: tokens(c)(a="text_encoder"), r"b='text_tokens': is of the same modality as a='text_encoder'"),
        (lambda c: c.model.parts.image_tokens.update(dim=9), r"b='text_tokens': has dim=8, but 'image_tokens' has"),
        (lambda c: c.model.parts.text_encoder.update(part="encoder"), r"b='text_tokens': below it is no part='watch"),
        (lambda c: c.modalities[1].update(shape=(1,)), r"b='text_tokens': has one token an example, and nothing to"),
        (lambda c: tokens(c)(temperature=0.0), r"token_contrast\.temperature=0\.0: must be positive"),
        (lambda c: tokens(c)(weighting="cls"), "weighting='cls': must be one of attention, uniform"),
        (lambda c: swapped(c)(prototypes=1), r"prototypes\.prototypes=1: of fewer than two everything is of the same"),
        (lambda c: swapped(c)(epsilon=0.0), r"prototypes\.epsilon=0\.0: must be positive"),
        (lambda c: swapped(c)(iterations=-1), r"prototypes\.iterations=-1: must not be negative"),
        (lambda c: swapped(c)(frozen_steps=-1), r"prototypes\.frozen_steps=-1: must not be negative"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_training(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=message):
        run = build.parse(c)
        build.objectives(run)
        init_function(build.models(run, build.objectives(run)), build.objectives(run), 0)
