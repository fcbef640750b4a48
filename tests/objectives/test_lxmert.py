"""LXMERT's five losses and what they are shown: against independent NumPy writings, exact accumulation, any mesh."""

import functools
import json

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import lxmert
from pretrain import build, sharding
from pretrain.models.passes import Call, draw, evaluate, leaves, ordered
from pretrain.objectives import region_features
from pretrain.objectives.paired import Corrupted, Corruption
from pretrain.restore import init_function
from pretrain.step import Models, Passes, accumulate, example_keys, forward

B, RATE, EOS = 16, 0.15, 3


def config(**shown):
    c = lxmert.get_config("tiny")
    sizes = dict(dim=16, heads=2, language=1, objects=1, cross=2)
    c.model = lxmert.model(**sizes, kinds=24, attributes=3, width=192, answers=24, cls=True) | dict(dtype="float32")
    for objective in c.objectives.values():
        objective.shown.update(shown)
    return c


@functools.cache
def made(seed=0, **shown):
    """(run, objectives, graph, parameters that are not trivial, a batch with what lacks text, objects or labels)."""
    run = build.parse(config(**shown))
    objectives = build.objectives(run)
    graph, init = init_function(build.models(run, objectives), objectives, seed)
    params = tiny.noisy(jax.jit(init)(), seed)
    source, encode = build.source(run.data, "train"), build.encoder(run, train=True)
    rows = [encode(source[i], np.random.default_rng(i)) for i in range(B)]
    batch = jax.tree.map(lambda *x: np.stack(x), *rows)
    batch["text"]["valid"][3] = False
    for name in ("objects", "boxes", "kind", "attribute"):
        batch[name]["valid"][5] = False
    batch["kind"]["valid"][6, 1:] = False
    batch["kind"]["vectors"][..., 1] = np.random.default_rng(0).random((B, 3))
    return run, objectives, graph, params, jax.tree.map(jnp.asarray, batch)


def corrupted(size=2000, seed=0, batch=None, **how):
    """(what the corruption makes of random pairs, these)."""
    run = made()[0]
    how = Corruption("text", "objects", "boxes", mask_id=4, special=(EOS,), **how)
    if batch is None:
        rng = np.random.default_rng(seed)
        valid = np.arange(12) < rng.integers(2, 12, (size, 1))
        ids = np.where(valid, rng.integers(4300, 8000, (size, 12)), 0)
        ids[np.arange(size), valid.sum(1) - 1] = EOS
        full = np.ones((size, 3), bool)
        vectors = {n: {"vectors": rng.normal(size=(size, 3, w)).astype(np.float32), "valid": full}
                   for n, w in (("objects", 192), ("boxes", 4))}  # fmt: skip
        batch = {"row": np.arange(size), "text": {"ids": ids.astype(np.int16), "valid": valid}} | vectors
    out = jax.jit(Corrupted(how, run.modalities))(batch, example_keys(seed, 0, len(batch["row"])))
    return jax.device_get(out), batch


# -- The losses ------------------------------------------------------------------------------------------------------


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.slow
def test_the_losses_equal_numpy():
    """The whole of the training loss, from what the network's parts give: loops over examples, words and objects."""
    _, objectives, graph, params, batch = made()
    keys = example_keys(0, 3, B)
    batch = batch | {"step": jnp.zeros(B, jnp.int32)}
    loss, (terms, _) = forward(graph, params, objectives, batch, keys, train=True)
    nodes = {name: o.over(o.head) for name, o in objectives.items() if name != "words"}
    one = objectives["words"]
    (stream,) = one.context.network[one.head].reads
    nodes["words"] = one.over(stream)
    leaf = one.leaf("words")
    data = draw(nodes.values(), batch, keys)
    network = Models(graph, params)["online"]
    values = evaluate(nodes.values(), {"online": network}, data, keys)
    out = jax.device_get({name: values[node] for name, node in nodes.items()})
    seen, b = jax.device_get((data[leaf.make], batch))

    words, matches, answers, labels, features = [], [], [], dict(kinds=[], attributes=[]), []
    scores = log_softmax(out["words"].x[:, 1:] @ np.asarray(network.embed_text.table[...]).T)
    objects = seen["objects"].tokens.valid
    for i in range(B):
        words += [-scores[i, j, seen["words"]["ids"][i, j]] for j in np.flatnonzero(seen["words"]["chosen"][i])]
        own = bool(seen["matched"][i])
        if seen["objects"].tokens.valid[i].any() and b["text"]["valid"][i].any():
            matches.append(-log_softmax(out["match"][i])[int(own)])
            if own and b["answer"]["valid"][i, 0]:
                answers.append(-log_softmax(out["answers"][i])[b["answer"]["ids"][i, 0]])
        for j in np.flatnonzero(objects[i]):
            for name, label in (("kinds", "kind"), ("attributes", "attribute")):
                if b[label]["valid"][i, j]:
                    nll = -log_softmax(out[name][i, j])[int(b[label]["vectors"][i, j, 0])]
                    labels[name].append(b[label]["vectors"][i, j, 1] * nll)
            e = np.abs(out["features"][i, j].astype(np.float64) - b["objects"]["vectors"][i, j])
            smooth = np.where(e < 1, e**2 / 2, e - 0.5).mean()
            features.append(smooth if seen["regions"][i, j] else 0.0)
    want = {
        "words/nll": np.mean(words), "match/nll": np.mean(matches), "answers/nll": np.mean(answers),
        "kinds/nll": np.mean(labels["kinds"]) / RATE, "attributes/nll": np.mean(labels["attributes"]) / RATE,
        "features/smooth_l1": np.mean(features) / RATE,
    }  # fmt: skip
    assert len(words) > 5 and 2 < sum(not m for m in seen["matched"]) and len(answers) > 1 and any(features)
    assert len(labels["kinds"]) == 3 * B - 3 - 2 and len(features) == 3 * B - 3
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=2e-5)


def test_the_gradient_of_features_is_clipped_and_that_of_masked_objects_alone():
    _, objectives, *_ = made()
    one, rng = objectives["features"], np.random.default_rng(0)
    found, target = (jnp.float32(2 * rng.normal(size=(4, 3, 192))) for _ in range(2))
    regions = jnp.asarray(rng.random((4, 3)) < 0.5)
    total = lambda x: one.totals({}, {"found": x, "features": target, "regions": regions}, train=True, run=None)
    got = jax.grad(lambda x: total(x)["smooth_l1"])(found)
    want = np.clip(found - target, -1, 1) / 192 * np.asarray(regions)[..., None]
    np.testing.assert_allclose(got, want, atol=1e-7)
    assert isinstance(one, region_features.Objective)


def test_all_losses_read_one_pass():
    _, objectives, *_ = made()
    nodes = Passes(objectives, train=True).nodes()
    parts = [n.part for n in ordered(nodes) if isinstance(n, Call)]
    assert len(parts) == len(set(parts)) and {"cross", "language", "vision", "object_words"} < set(parts)
    assert len({leaf.make for leaf in leaves(nodes) if isinstance(leaf.make, Corrupted)}) == 1


def test_every_loss_has_a_gradient():
    _, objectives, graph, params, batch = made()
    grads = jax.jit(jax.grad(lambda p: forward(graph, p, objectives, batch, KEYS, train=True)[0]))(params)["model"]
    for part, tree in grads.items():
        moved = any(np.abs(x).max() > 0 for x in jax.tree.leaves(tree))
        assert moved or not jax.tree.leaves(tree) or part == "text_pool", part


KEYS = example_keys(0, 3, B)


def undivided():
    _, objectives, graph, params, batch = made()
    run = jax.jit(jax.value_and_grad(lambda p: forward(graph, p, objectives, batch, KEYS, train=True), has_aux=True))
    (loss, _), grads = run(params)
    return loss, grads


@pytest.mark.slow
def test_accumulation_changes_nothing():
    _, objectives, graph, params, batch = made()
    loss, _, grads = jax.jit(lambda p, b: accumulate(graph, p, objectives, b, KEYS, 4))(params, batch)
    laws.close_trees(undivided(), (loss, grads), 2e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    run, objectives, graph, params, batch = made()
    roles = init_function(build.models(run, objectives), objectives, 0)[1].roles
    mesh = sharding.make_mesh(sharding.parse_mesh("data=2,fsdp=2,tensor=2"))
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(lambda p, b: forward(graph, p, objectives, b, KEYS, train=True), has_aux=True),
            in_shardings=(sharding.state_sharding(params, roles, mesh), sharding.batch_sharding(mesh)),
        )
        (loss, _), grads = step(params, batch)
    laws.close_trees(undivided(), jax.device_get((loss, grads)), 2e-5)


# -- What they are shown ---------------------------------------------------------------------------------------------


def test_words_are_masked_as_in_bert_and_mismatched_ones_too():
    found, _ = corrupted()
    ids, chosen, shown = found["words"]["ids"], found["words"]["chosen"], found["text"].tokens
    may = shown.valid & (ids != EOS)
    assert not chosen[~may].any() and 0.14 < chosen[may].mean() < 0.16
    away = ~found["matched"]
    assert 0.47 < away.mean() < 0.53 and 0.14 < chosen[away][may[away]].mean() < 0.16
    masked, same = shown.ids[chosen] == 4, shown.ids[chosen] == ids[chosen]
    assert 0.78 < masked.mean() < 0.82 and 0.08 < same.mean() < 0.12
    random = shown.ids[chosen][~masked & ~same]
    assert 0.08 < len(random) / chosen.sum() < 0.12 and random.min() < 1000 and random.max() > 7000
    np.testing.assert_array_equal(shown.ids[~chosen], ids[~chosen])


def test_objects_are_masked_but_not_their_boxes():
    found, batch = corrupted()
    chosen, shown, given = found["regions"], found["objects"].dense["objects"], batch["objects"]["vectors"]
    assert 0.13 < chosen.mean() < 0.17
    np.testing.assert_array_equal(found["features"], given)
    np.testing.assert_array_equal(found["objects"].dense["boxes"], batch["boxes"]["vectors"])
    np.testing.assert_array_equal(shown[~chosen], given[~chosen])
    zero, same = (shown[chosen] == 0).all(-1), (shown[chosen] == given[chosen]).all(-1)
    assert 0.76 < zero.mean() < 0.84 and 0.07 < same.mean() < 0.13
    rows = {tuple(row) for row in given.reshape(-1, 192)}
    assert all(tuple(row) in rows for row in shown[chosen][~zero & ~same]), "random objects are those of others"


def test_a_mismatched_text_is_anothers_and_no_pair_is_said_to_be_mismatched_that_is_not():
    found, batch = corrupted(words=0.0)
    ids, own = found["text"].tokens.ids, batch["text"]["ids"]
    away = ~found["matched"]
    texts = {tuple(row) for row in own}
    np.testing.assert_array_equal(ids[~away], own[~away])
    assert all(tuple(row) in texts for row in ids[away]) and (ids[away] != own[away]).any(1).all()
    # The same text, the same objects, or one that lacks: pairs stay.
    for change in (
        {"text": jax.tree.map(lambda x: np.repeat(x[:1], len(x), 0), batch["text"])},
        {"objects": jax.tree.map(lambda x: np.repeat(x[:1], len(x), 0), batch["objects"])},
        {"text": batch["text"] | {"valid": np.zeros_like(batch["text"]["valid"])}},
    ):
        assert corrupted(batch=batch | change)[0]["matched"].all()
    alone = jax.tree.map(lambda x: x[:1], batch)
    assert corrupted(batch=alone)[0]["matched"].all() and not found["matched"].all()


def test_mismatched_texts_may_be_those_that_a_transform_wrote():
    """`swapped_text`: the same words in another order; who has no such text stays matched."""
    _, batch = corrupted(size=200)
    swapped = batch["text"]["ids"].copy()
    swapped[:, :2] = swapped[:, 1::-1]
    entry = {"ids": swapped, "valid": batch["text"]["valid"].copy()}
    entry["valid"][:20] = False
    found, _ = corrupted(batch=batch | {"text/swapped": entry}, negatives="text/swapped", words=0.0)
    away = ~found["matched"]
    assert not away[:20].any() and 0.4 < away[20:].mean() < 0.6
    np.testing.assert_array_equal(found["text"].tokens.ids, np.where(away[:, None], swapped, batch["text"]["ids"]))


def test_the_transform_feeds_a_run():
    c = config(negatives="text/swapped")
    c.data.transforms = [dict(transform="swapped_text", field="sentence")]
    run = build.parse(c)
    source, encode = build.source(run.data, "train"), build.encoder(run, train=True)
    batch = jax.tree.map(lambda *x: np.stack(x), *(encode(source[i], np.random.default_rng(i)) for i in range(64)))
    found = jax.device_get(build.objectives(run)["match"].leaf("").make(batch, example_keys(0, 0, 64)))
    away = ~found["matched"]
    assert 15 < away.sum() < 50
    np.testing.assert_array_equal(found["words"]["ids"][away], batch["text/swapped"]["ids"][away])


@pytest.mark.slow
def test_a_drawing_is_the_same_however_the_batch_is_divided_and_another_every_step():
    _, objectives, *_, batch = made()
    make = objectives["words"].leaf("").make
    assert all(o.leaf("").make == make for o in objectives.values()), "equal corruptions are drawn once"
    a, b, c = (jax.device_get(make(batch, example_keys(0, step, B))) for step in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert (a["words"]["chosen"] != c["words"]["chosen"]).any() and (a["matched"] != c["matched"]).any()


# -- What is refused -------------------------------------------------------------------------------------------------


def broken(**changes):
    """The tiny run with keys of objectives changed: `words__shown__mask_id=9`."""
    c = json.loads(json.dumps(config().to_dict(), default=list))  # in a ConfigDict all share one `shown`
    for path, value in changes.items():
        *way, key = path.split("__")
        at = c["objectives"]
        for name in way:
            at = at[name]
        at[key] = value
    return build.objectives(build.parse(c))


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(words__shown__mask_id=8000), r"masked_words.shown.mask_id=8000: must be a token of 'text', 0…7999"),
        (dict(words__shown__mask_id=3), "masked_words.shown.mask_id=3: .* and no special one"),
        (dict(match__shown__mismatched=1.0), "matching.shown.mismatched=1.0: must be at least 0 and below 1"),
        (dict(match__shown__mismatched=0.0), "matching.shown.mismatched=0.0: no pair would be mismatched"),
        (dict(match__shown__negatives="caption/swapped"), "matching.shown.negatives='caption/swapped': must be text/V"),
        (dict(match__shown__negatives="text/swapped"), "matching.shown.negatives='swapped': no transform writes"),
        (dict(words__shown__text="objects"), "masked_words.shown.text='objects': no text of the run, which has text"),
        (dict(words__shown__boxes="text"), "masked_words.shown.boxes='text': no modality of vectors of the run"),
        (dict(words__head="nose"), "masked_words.head='nose': the network has no such part; it has"),
        (dict(match__head="answers"), "matching.head='answers': it gives 24 numbers; two classes need dim=2"),
        (dict(match__head="kinds"), "matching.head='kinds': it gives numbers of a stream; name .* numbers of a vector"),
        (dict(words__head="match"), "masked_words.head='match': it gives numbers of a vector; name .* of words of a"),
        (dict(kinds__head="embed_text"), "region_labels.head='embed_text': it gives stream of a modality; name a part"),
        (dict(features__head="answers"), "region_features.head='answers': it gives numbers of a vector; name"),
        (dict(kinds__label="kin"), "region_labels.label='kin': no such labels in config.labels; there are kind, attr"),
        (dict(kinds__label="attribute"), "region_labels.head='kinds': gives 24 numbers, but 'attribute' has 3 classes"),
        (dict(kinds__label="answer"), "region_labels.label='answer': no such labels in config.labels"),
        (dict(answers__label="kind"), "answers.label='kind': no such labels in config.labels; there are answer"),
        (dict(kinds__shown__regions=0.0), "region_labels.shown.regions=0.0: the loss is divided by it"),
        (dict(features__shown__regions=0.0), "region_features.shown.regions=0.0: no object would be masked"),
        (dict(features__head="kinds"), "region_features.head='kinds': it gives 24 numbers, but features have 192"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named_before_training(changes, error):
    with pytest.raises(ValueError, match=rf"objectives\.{error}"):
        broken(**changes)
