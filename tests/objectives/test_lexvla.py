"""LexVLA's lexical head and its penalties: against independent NumPy writings; tables that stand still, are tied or
learn; what is refused; blocks, accumulation, any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import lexvla
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.restore import init_function
from pretrain.step import Models, example_keys, forward

B, KEYS, WORDS = 16, example_keys(0, 3, 16), 8000
MODALITIES = ("image", "text")


def config(penalty="flops", coef=0.5, **lexical):
    c, size = lexvla.get_config("tiny"), dict(dim=16, heads=2, depth=1)
    c.model.parts = lexvla.parts(size | dict(dim=12), size, WORDS, hidden=(20,), **dict(tied="text_embed") | lexical)
    c.objectives, c.batch_size = lexvla.objectives(penalty, coef), B
    return c


@functools.cache
def made(**changes):
    """(objectives, graphs, parameters that are not trivial, a batch that lacks a text and a picture)."""
    built = laws.Built(config(**changes))
    params, batch = tiny.noisy(built.params, noise=0.3), built.batch(30)
    batch["text"]["valid"][3], batch["image"]["valid"][5] = False, False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided(**changes):
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(**changes), KEYS)


def streams(objectives, graphs, params, batch) -> dict:
    """{modality: what the lexical head reads}."""
    network = objectives["contrastive"].network
    nodes = [network.stream(m, network.shown(m)) for m in MODALITIES]
    run = lambda p, b: list(map(evaluate(nodes, Models(graphs, p), draw(nodes, b, KEYS), KEYS).get, nodes))
    return dict(zip(MODALITIES, jax.device_get(jax.jit(run)(params, batch))))


def lexical(how="max", activation="log1p", **changes) -> dict:
    """{modality: weights `[B, WORDS]`}, in a loop over examples."""
    given = made(how=how, activation=activation, **changes)
    model, out = given[2]["model"], {}
    tables = {"image": model["image_words"]["table"], "text": model["text_embed"]["table"]}
    act = {
        "log1p": lambda x: np.log1p(np.maximum(x, 0)),
        "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))) + 1,
    }[activation]
    for m, stream in streams(*given).items():
        there, rows = stream.valid & (stream.modality >= 0), []  # the class token says nothing
        for x, which in zip(np.float64(stream.x), there):
            own = act(x[which] @ np.float64(tables[m]).T)
            rows.append(getattr(own, how)(0) if which.any() else np.zeros(WORDS))
        out[m] = np.stack(rows)
    return out


def infonce(a, b, scale):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    e = np.exp(scale * (a @ b.T - 1))
    return -np.mean(np.log(np.diag(e) / e.sum(0)) + np.log(np.diag(e) / e.sum(1))) / 2


def penalised(s, penalty):
    return np.square(np.abs(s).mean(0)).sum() if penalty == "flops" else np.abs(s).sum(1).mean()


@pytest.mark.parametrize(
    "changes", [{}, dict(penalty="l1", how="mean", coef=0.01), dict(activation="elu", coef=0.01, how="mean")]
)
def test_the_loss_equals_numpy(changes):
    shape = {k: v for k, v in changes.items() if k in ("how", "activation")}
    s, coef, penalty = lexical(**shape), changes.get("coef", 0.5), changes.get("penalty", "flops")
    both, scale = (
        [i for i in range(B) if i not in (3, 5)],
        np.exp(made(**changes)[2]["objective"]["contrastive"]["log_scale"]),
    )
    want = infonce(s["image"][both], s["text"][both], scale)
    there = {"image": [i for i in range(B) if i != 5], "text": [i for i in range(B) if i != 3]}
    want += coef * sum(penalised(s[m][there[m]], penalty) for m in s)
    (loss, (terms, _)), _ = undivided(**changes)
    np.testing.assert_allclose(loss, want, rtol=2e-5)
    active = terms["sparsity/active text"]
    np.testing.assert_allclose(active.total / active.weight, (s["text"][there["text"]] > 0).sum(1).mean(), rtol=1e-3)


def test_the_penalty_of_unit_weights():
    """As they are compared: what the length of weights does is then left to contrast."""
    objectives, *given = made()
    unit = {"sparsity": dataclasses.replace(objectives["sparsity"], normalise=True)}
    graphs, params, batch = given
    _, (terms, _) = jax.jit(lambda p, b: forward(graphs, p, unit, b, KEYS, train=True))(params, batch)
    s = np.delete(lexical()["image"], 5, 0)
    want = penalised(s / np.linalg.norm(s, axis=1, keepdims=True), "flops")
    np.testing.assert_allclose(terms["sparsity/image"].total, want, rtol=2e-5)


def test_a_word_that_all_have_costs_more_than_as_much_weight_of_different_words():
    same, apart = np.eye(6)[[0] * 6], np.eye(6)
    assert penalised(same, "flops") == 6 * penalised(apart, "flops")
    assert penalised(same, "l1") == penalised(apart, "l1")


def test_every_part_has_a_gradient():
    for part, tree in undivided()[1]["model"].items():
        assert not jax.tree.leaves(tree) or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part


@pytest.mark.slow
@pytest.mark.parametrize("divided", [dict(accum=2), dict(mesh="data=4,fsdp=2")])
def test_microbatches_and_devices_change_nothing(divided):
    laws.same_gradients(laws.gradients(*made(), KEYS, **divided), undivided(), 2e-4)


def test_blocks_of_words_change_nothing():
    laws.same_gradients(laws.gradients(*made(block=2000), KEYS), undivided(), 2e-4)


def test_what_a_token_says_is_at_most_what_all_say():
    objectives, graphs, params, batch = given = made()
    network = objectives["contrastive"].network
    node = network.call("text_words", network.stream("text", network.shown("text")), tokens=True)
    run = lambda p, b: evaluate([node], Models(graphs, p), draw([node], b, KEYS), KEYS)[node]
    each, stream = np.asarray(jax.jit(run)(params, batch)), streams(*given)["text"]
    np.testing.assert_allclose(each[0][stream.valid[0]].max(0), lexical()["text"][0], rtol=1e-4, atol=1e-5)


def test_pictures_learn_words_of_their_own_beside_a_table_that_stands_still():
    c = config(tied="")
    c.train = [dict(pattern="model/text_words/table", how="nothing", fresh=True), dict()]
    built = laws.Built(c)
    split = build.split(built.run, built.params, built.roles)
    learn = split.trained(built.params, 0)["model"]
    assert "text_words" not in learn and learn["image_words"]["table"].shape == (WORDS, 16)


lexical_of, sparse = lambda c: c.model.parts.image_words.update, lambda c: c.objectives.sparsity.update


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: lexical_of(c)(words="image"), "image_words': words='image': must be a text; it is pixels"),
        (lambda c: lexical_of(c)(dim=99), "image_words': dim=99: 'text' has 8000 words, one weight each"),
        (lambda c: lexical_of(c)(how="sum"), "image_words': how='sum': must be one of max, mean"),
        (lambda c: lexical_of(c)(activation="relu"), "activation='relu': must be one of log1p, elu"),
        (lambda c: lexical_of(c)(block=300), "image_words': block=300: must divide dim=8000; 0 is all at once"),
        (lambda c: lexical_of(c)(table="image_embed"), "table='image_embed': name the part that embeds 'text'"),
        (lambda c: lexical_of(c)(table="word"), "table='word': name the part that embeds 'text'"),
        (lambda c: c.model.parts.image_map.update(dim=8) or lexical_of(c)(table="text_embed"), "not of the width that"),
        (lambda c: sparse(c)(penalty="l2"), r"sparsity\.penalty='l2': must be one of flops, l1"),
        (lambda c: sparse(c)(modalities=[]), r"sparsity\.modalities=\(\): name at least one"),
        (lambda c: sparse(c)(modalities=["sound"]), "sparsity: no modality 'sound'; the run has image, text"),
    ],
)
def test_what_cannot_be_is_refused_before_training(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=message):
        run = build.parse(c)
        init_function(build.models(run, build.objectives(run)), build.objectives(run), 0)
