"""IRRA's losses: against independent NumPy writings, gradients included; its traps; exact accumulation, any mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import irra
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.objectives.paired import Corrupted, Corruption
from pretrain.restore import init_function
from pretrain.step import Models, example_keys

B, EOS, MASK = 16, 3, 4


def config():
    c = irra.get_config("tiny")
    towers = dict(image=dict(dim=24, heads=2, depth=1), text=dict(dim=16, heads=2, depth=1))
    c.model.parts, c.batch_size = irra.parts(towers, 16, 1), B
    return c


@functools.cache
def made():
    """(objectives, graph, parameters that are not trivial, a batch that lacks a text, a picture and a label)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(30)
    batch["id"]["ids"][:, 0] = np.arange(B) % 5  # several of each
    batch["text"]["valid"][3], batch["image"]["valid"][5], batch["id"]["valid"][7] = False, False, False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


KEYS = example_keys(0, 3, B)


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def evaluated(nodes):
    _, graph, params, batch = made()
    run = jax.jit(lambda p, b: list(map(evaluate(nodes, Models(graph, p), draw(nodes, b, KEYS), KEYS).get, nodes)))
    return jax.device_get(run(params, batch))


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def normalise(x, own):
    x = np.asarray(x, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * own["scale"] + own["bias"]


def test_the_losses_equal_numpy():
    """The whole of the training loss, from what the network's encoders give: loops over pairs, examples and words."""
    objectives, _, params, batch = made()
    sdm, words = objectives["sdm"], objectives["mlm"]
    pooled = [sdm.context.network.pooled(m, sdm.shown(m)) for m in ("image", "text")]
    *vectors, spoken, masked = evaluated([*pooled, words.over("spoken"), words.leaf("words")])
    p = jax.tree.map(np.float64, params)
    raw = [
        v.astype(np.float64) @ p["model"][f"{m}_project"]["linear"]["kernel"]
        for v, m in zip(vectors, ("image", "text"))
    ]
    has = np.ones((2, B), bool)
    has[0, 5] = has[1, 3] = False
    ids, labelled = np.asarray(batch["id"]["ids"])[:, 0], np.arange(B) != 7

    both, total = np.flatnonzero(has.all(0)), 0.0
    z = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in raw]
    for a, b in (z, z[::-1]):
        for i in both:
            logits = np.asarray([50 * a[i] @ b[j] for j in both])
            same = np.asarray([i == j or (ids[i] == ids[j] and labelled[i] and labelled[j]) for j in both])
            log_p = log_softmax(logits)
            total += (np.exp(log_p) * (log_p - np.log(same / same.sum() + 1e-8))).sum()
    want = {"sdm/image~text": total / len(both)}
    own = p["objective"]["id"]
    for m, x, there in zip(("image", "text"), raw, has):
        known = np.flatnonzero(there & labelled)
        scores = log_softmax(x @ own["kernel"] + own["bias"])
        want[f"id/{m}"] = np.mean([-scores[i, ids[i]] for i in known])
    scores = log_softmax(spoken.x @ p["model"]["text_embed"]["table"].T)
    at = zip(*np.nonzero(masked["chosen"]))
    want["mlm/nll"] = np.mean([-scores[i, j, masked["ids"][i, j]] for i, j in at])

    (loss, (terms, _)), _ = undivided()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=3e-5, err_msg=name)
    np.testing.assert_allclose(
        loss, want["sdm/image~text"] + (want["id/image"] + want["id/text"]) / 2 + want["mlm/nll"], rtol=3e-5
    )


def test_words_read_the_picture_by_one_cross_attention():
    """softmax(q kᵀ / √d) v of normed text over normed patches, brought to the text's width, and nothing of the text."""
    objectives, _, params, _ = made()
    network, words = objectives["mlm"].context.network, objectives["mlm"]
    found, text, image = evaluated([words.over(name) for name in ("cross", "text_encoder", "image_encoder")])
    own = jax.tree.map(np.float64, params["model"]["cross"])
    assert network["cross"].dim == 16 and image.x.shape[-1] == 24
    x, y = normalise(text.x, own["asks"]), normalise(image.x @ own["bring"]["kernel"], own["read"])
    attn = own["attn"]
    linear = lambda x, name: x @ attn[name]["kernel"] + attn[name]["bias"]
    q, (k, v) = linear(x, "q"), np.split(linear(y, "kv"), 2, -1)
    heads = lambda x: x.reshape(*x.shape[:2], 2, 8)
    weights = np.exp(log_softmax(np.einsum("bnhd,bmhd->bhnm", heads(q), heads(k)) / 8**0.5))
    mixed = linear(np.einsum("bhnm,bmhd->bnhd", weights, heads(v)).reshape(q.shape), "proj")
    there = np.arange(B) != 5
    np.testing.assert_allclose(found.x[there], mixed[there], atol=2e-5)


def test_the_temperature_is_no_parameter_and_every_other_one_has_a_gradient():
    """Trap: the release's is a tensor that nothing trains."""
    objectives, _, params, _ = made()
    assert params["objective"]["sdm"] == {} and objectives["sdm"].scale({}) == 50
    grads = undivided()[1]
    for part, tree in {**grads["model"], **grads["objective"]}.items():
        assert not jax.tree.leaves(tree) or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part


def test_identities_are_read_before_the_unit_length():
    """Embeddings twice as long are twice as sure; of those of length 1 none is."""
    one = made()[0]["id"]
    (z, raw) = evaluated([one.network.embedding("text", one.shown("text")), one.passes(True)["raw", "text"]])
    there = np.arange(B) != 3
    length = np.linalg.norm(raw[there], axis=1, keepdims=True)
    np.testing.assert_allclose(raw[there] / length, z[there], atol=1e-6)
    assert np.abs(length - 1).max() > 0.1
    own = {"kernel": jnp.eye(16, one.classes), "bias": jnp.zeros(one.classes)}
    outputs = {("shown", m): one.shown(m).make(made()[3], KEYS) for m in one.modalities}
    outputs |= {("raw", m): jnp.asarray(raw) for m in one.modalities}
    outputs["label"] = {"ids": jnp.asarray(raw[:, :16].argmax(1)), "valid": jnp.ones(B, bool)}
    once = one.totals(own, outputs, train=True, run=None)
    twice = one.totals(own, outputs | {("raw", m): 2 * jnp.asarray(raw) for m in one.modalities}, train=True, run=None)
    assert twice["text"] < once["text"] and twice["accuracy text"] == once["accuracy text"] == B - 1


@pytest.mark.parametrize("least", [True, False])
def test_of_every_text_a_word_is_masked(least):
    """The first, where none was drawn; nothing else changes."""
    size, rng = 2000, np.random.default_rng(0)
    valid = np.arange(16) < rng.integers(2, 8, (size, 1))
    ids = np.where(valid, rng.integers(4300, 8000, (size, 16)), 0)
    ids[np.arange(size), valid.sum(1) - 1] = EOS
    valid[:9] = False
    pixels = {"pixels": np.zeros((size, 64, 64, 3), np.uint8), "valid": np.ones(size, bool)}
    batch = {"row": np.arange(size), "text": {"ids": ids, "valid": valid}, "image": pixels}
    how = lambda least: Corruption(
        "text", "image", mask_id=MASK, regions=0.0, mismatched=0.0, special=(EOS,), least=least
    )
    draw_with = lambda least: jax.device_get(
        Corrupted(how(least), build.parse(config()).modalities)(batch, example_keys(0, 0, size))
    )
    found, plain = draw_with(least), draw_with(False)
    none = ~plain["words"]["chosen"].any(1) & valid.any(1)
    assert none.sum() > 500
    chosen, shown = found["words"]["chosen"][none], found["text"].tokens.ids[none]
    assert (chosen.sum(1) == least).all() and chosen[:, 0].all() == least
    assert ((shown[:, 0] == MASK) == least).all() and not found["words"]["chosen"][:9].any()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(plain)):
        np.testing.assert_array_equal(np.asarray(a)[~none], np.asarray(b)[~none])


@pytest.mark.slow
def test_accumulation_changes_nothing():
    laws.same_gradients(laws.gradients(*made(), KEYS, accum=2), undivided(), 2e-4)


@pytest.mark.slow
def test_eight_devices_are_one():
    laws.same_gradients(laws.gradients(*made(), KEYS, mesh="data=4,fsdp=2"), undivided(), 2e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.objectives.id.update(label="who"), "objectives.identification.label='who': no such labels"),
        (lambda c: c.objectives.id.update(modalities=[]), "modalities=(): list those that are classified"),
        (lambda c: c.objectives.id.update(modalities=["image", "text", "text"]), "each once"),
        (lambda c: c.objectives.id.update(modalities=["sound"]), "identification: no modality 'sound'"),
        (lambda c: c.objectives.sdm.target.update(label="who"), "contrastive.target.label='who': no such labels"),
        (lambda c: c.model.parts.cross.update(reads=["text_encoder"]), "'cross': reads=('text_encoder',): name two"),
        (lambda c: c.model.parts.cross.update(dim=24), "'cross': dim=24: 'text_encoder', which asks, gives tokens of"),
        (lambda c: c.model.parts.cross.update(heads=3), "'cross': dim=16: must be divisible by heads=3"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(change, message):
    c = config()
    change(c)
    with pytest.raises(ValueError, match=re.escape(message)):
        run = build.parse(c)
        init_function(build.models(run, objectives := build.objectives(run)), objectives, 0)
