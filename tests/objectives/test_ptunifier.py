"""PTUnifier's losses: against independent NumPy writings, values and gradients, exact accumulation, any mesh; and what
its pools of prompts learn of them."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import ptunifier
from pretrain import build, sharding
from pretrain.models.passes import Call, draw, evaluate, leaves, ordered
from pretrain.models.tokens import Whole
from pretrain.objectives.paired import Corrupted
from pretrain.parameters import path_str
from pretrain.restore import init_function
from pretrain.step import Models, Passes, accumulate, example_keys, forward

B, EOS = 16, 3
SIZES = dict(dim=16, heads=2, text=1, image=1, cross=1, pseudo=(4, 6), entries=12, end=EOS)
POOLS = "text_fill", "image_fill"


def config(**fill):
    c = ptunifier.get_config("tiny")
    c.model = ptunifier.model(**SIZES | fill) | dict(dtype="float32")
    c.batch_size = B
    return c


@functools.cache
def made(seed=0, **fill):
    """(run, objectives, graph, parameters that are not trivial, a batch with examples that lack text or picture)."""
    run = build.parse(config(**fill))
    objectives = build.objectives(run)
    graph, init = init_function(build.models(run, objectives), objectives, seed)
    params = tiny.noisy(jax.jit(init)(), seed)
    source, encode = build.source(run.data, "train"), build.encoder(run, train=True)
    rows = [encode(source[40 * i], np.random.default_rng(i)) for i in range(B)]
    batch = jax.tree.map(lambda *x: np.stack(x), *rows)
    batch["text"]["valid"][3], batch["image"]["valid"][5] = False, False
    return run, objectives, graph, params, jax.tree.map(jnp.asarray, batch)


KEYS = example_keys(0, 3, B)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def evaluated(nodes, params, graph, batch):
    """The values of nodes, in their order."""

    @jax.jit
    def run(params, batch):
        data = draw(nodes, batch, KEYS)
        values = evaluate(nodes, Models(graph, params), data, KEYS)
        return [values[node] for node in nodes]

    return jax.device_get(run(params, batch))


def embedded(params, text, image, modality):
    """In NumPy: both class tokens, each through its pooler, side by side, normalised, projected, of unit length."""
    p = jax.tree.map(np.asarray, params["model"])
    pooled = [
        np.tanh(s.x[:, 0].astype(np.float64) @ p[n]["linear"]["kernel"] + p[n]["linear"]["bias"])
        for n, s in (("text_pooled", text), ("image_pooled", image))
    ]
    x = np.concatenate(pooled, 1)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    x = x * p["compared"]["norm"]["scale"] + p["compared"]["norm"]["bias"]
    z = x @ p["project"]["each"][modality]["kernel"]
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.mark.slow
def test_the_losses_equal_numpy():
    """The whole of the training loss, from what the network's encoders give: loops over words and examples."""
    _, objectives, graph, params, batch = made()
    words, match, contrast = (objectives[n] for n in ("words", "match", "contrast"))
    states, streams = words.context.network, ("text_crossed", "image_crossed")
    nodes = [words.over("spoken"), match.over("match"), *(o.leaf("") for o in (words, match))]
    nodes += [states.alone(part, name, contrast.shown(name)) for name in ("image", "text") for part in streams]
    spoken, logits, masked, paired, *alone = evaluated(nodes, params, graph, batch)

    scores = log_softmax(spoken.x[:, 1:] @ np.asarray(params["model"]["text_embed"]["table"]).T)
    nll = [-scores[i, j, masked["words"]["ids"][i, j]] for i, j in zip(*np.nonzero(masked["words"]["chosen"]))]
    both = np.flatnonzero(paired["paired"])
    own = paired["matched"].astype(int)
    matching = [-log_softmax(logits[i])[own[i]] for i in both]
    z = {n: embedded(params, *alone[i : i + 2], n)[both] for i, n in ((0, "image"), (2, "text"))}
    cosines = z["image"] @ z["text"].T / 0.1
    ways = [-np.diag(log_softmax(s)).mean() for s in (cosines, cosines.T)]
    want = {"words/nll": np.mean(nll), "match/nll": np.mean(matching), "contrast/image~text": np.mean(ways)}

    assert len(nll) > 4 and len(both) == B - 2 and 3 < own[both].sum() < B - 5
    (loss, (terms, _)), _ = undivided()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=2e-5, err_msg=name)
    weighted = want["words/nll"] + 0.5 * want["match/nll"] + 0.1 * want["contrast/image~text"]
    np.testing.assert_allclose(loss, weighted, rtol=2e-5)


def trained(batch):
    return batch | {"step": jnp.zeros(B, jnp.int32)}


def test_the_gradient_of_contrast_equals_numpy():
    """By both embeddings: (softmax − 1) of rows and columns / (2 n T), over those that have both."""
    one, rng = made()[1]["contrast"], np.random.default_rng(0)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, B, 16)))
    has = rng.random(B) < 0.8
    compare = lambda a, b: one.compare({}, a, b, jnp.asarray(has)) / has.sum()
    got = jax.grad(compare, (0, 1))(jnp.float32(a), jnp.float32(b))
    s = a[has] @ b[has].T / 0.1
    p = np.exp(log_softmax(s)) + np.exp(log_softmax(s.T)).T - 2 * np.eye(has.sum())
    for found, want in zip(got, (p @ b[has], p.T @ a[has])):
        np.testing.assert_allclose(found[has], want / (2 * 0.1 * has.sum()), atol=2e-6)
        assert np.abs(found[~has]).max() == 0


def test_every_loss_has_passes_of_its_own():
    """Four: masked words of matched pairs, whole texts of pairs of which some are not, pictures and texts alone."""
    _, objectives, *_, batch = made()
    nodes = Passes(objectives, train=True).nodes()
    assert sum(n.part == "cross" for n in ordered(nodes) if isinstance(n, Call)) == 4
    makes = {leaf.make for leaf in leaves(nodes)}
    assert {m.names for m in makes if isinstance(m, Whole)} == {("image",), ("text",)} and len(makes) == 4
    words, match = (jax.device_get(objectives[n].leaf("").make(batch, KEYS)) for n in ("words", "match"))
    assert words["matched"].all() and not match["words"]["chosen"].any() and not match["matched"].all()
    ids = np.asarray(batch["text"]["ids"])
    own = match["matched"]
    np.testing.assert_array_equal(match["text"].tokens.ids[own], ids[own])
    assert (match["text"].tokens.ids[~own] != ids[~own]).any(1).all()


def test_a_picture_may_be_in_the_place_of_objects():
    """Its patches are what a network is shown of it, all of them as they are."""
    run, objectives, *_, batch = made()
    one = objectives["words"].leaf("").make
    found = jax.device_get(one(batch, KEYS))
    assert isinstance(one, Corrupted) and list(found["objects"].dense) == ["image"]
    want = Whole(("image",), run.modalities)(batch)
    np.testing.assert_array_equal(found["objects"].dense["image"], want.dense["image"])
    jax.tree.map(np.testing.assert_array_equal, found["objects"].tokens, want.tokens)
    # The same picture is no other's.
    same = batch | {"image": jax.tree.map(lambda x: jnp.repeat(x[:1], B, 0), batch["image"])}
    assert objectives["match"].leaf("").make(same, KEYS)["matched"].all()


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    _, objectives, graph, params, batch = made()
    run = jax.value_and_grad(lambda p, b: forward(graph, p, objectives, b, KEYS, train=True), has_aux=True)
    return jax.device_get(jax.jit(run)(params, trained(batch)))


def test_every_part_has_a_gradient_and_a_pool_through_its_look_up():
    """Trap: under the release's look-up the pool has none."""
    found = undivided()[1]["model"]
    for part, tree in found.items():
        assert not jax.tree.leaves(tree) or max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part
    for pool in POOLS:
        taken = np.abs(np.asarray(found[pool]["prompts"])).max(1) > 0
        assert SIZES["pseudo"][0] <= taken.sum() < 12, "of entries that nobody takes there is none"


def test_of_pairs_alone_a_pool_learns_nothing_and_of_who_lacks_one_it_does():
    _, objectives, graph, params, batch = made()
    words = {"words": objectives["words"]}
    loss = lambda p, b: forward(graph, p, words, trained(b), KEYS, train=True)[0]
    by_pools = jax.jit(lambda p, b: [g["prompts"] for g in map(jax.grad(loss)(p, b)["model"].get, POOLS)])
    full = batch | {n: batch[n] | {"valid": jnp.repeat(batch[n]["valid"][:1], B, 0)} for n in ("image", "text")}
    reach = lambda data: [np.abs(g).max() for g in by_pools(params, data)]
    assert reach(full) == [0, 0]
    text, image = reach(batch)
    assert image > 0 and text == 0, "no word is asked of who has no text"


def test_a_frozen_pool_is_never_trained():
    """Nor decayed: every number of it stays as it was drawn, while all around it learns."""
    c = config(learn=False)
    del c.objectives.words, c.objectives.match  # which see no pool here
    built = laws.Built(c)
    before, after = built.params["model"], built.step(built.batch(), steps=2)[0].params["model"]
    for pool in POOLS:
        np.testing.assert_array_equal(after[pool]["prompts"], before[pool]["prompts"])
    assert np.abs(after["text_embed"]["cls"] - before["text_embed"]["cls"]).max() > 0


def test_an_absent_modality_changes_nothing_for_the_others():
    """What a batch holds where a text or a picture is absent, and examples beside it, do not change an embedding."""
    _, objectives, graph, params, batch = made()
    passes = objectives["contrast"].passes(True)
    z = lambda batch: evaluated([passes["z", "image"]], params, graph, batch)[0]
    junk = batch | {"text": batch["text"] | {"ids": batch["text"]["ids"] * 0 + 77}}
    np.testing.assert_array_equal(z(batch), z(junk))


def whole():
    (loss, _), found = undivided()
    return loss, found


@pytest.mark.slow
def test_accumulation_changes_nothing():
    _, objectives, graph, params, batch = made()
    loss, _, found = jax.jit(lambda p, b: accumulate(graph, p, objectives, b, KEYS, 2))(params, trained(batch))
    laws.close_trees(whole(), (loss, found), 2e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    run, objectives, graph, params, batch = made()
    roles = init_function(build.models(run, objectives), objectives, 0)[1].roles
    mesh = sharding.make_mesh(sharding.parse_mesh("data=4,fsdp=2"))
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(lambda p, b: forward(graph, p, objectives, b, KEYS, train=True), has_aux=True),
            in_shardings=(sharding.state_sharding(params, roles, mesh), sharding.batch_sharding(mesh)),
        )
        (loss, _), found = step(params, jax.device_get(trained(batch)))
    laws.close_trees(whole(), jax.device_get((loss, found)), 2e-5)


def test_the_published_run_by_its_shapes():
    """49 and 32 pseudo-tokens of 2048 entries, in 50 and 49 slots; heads, pools and co-attention learn fivefold."""
    run = build.parse(ptunifier.get_config(""))
    objectives = build.objectives(run)
    graph, init = init_function(build.models(run, objectives), objectives, 0)
    params, shape = jax.eval_shape(init), jax.ShapeDtypeStruct
    batch = {
        "row": shape((4,), jnp.int32), "step": shape((4,), jnp.int32),
        "text": {"ids": shape((4, 48), jnp.int16), "valid": shape((4, 48), bool)},
        "image": {"pixels": shape((4, 224, 224, 3), jnp.uint8), "valid": shape((4,), bool)},
    }  # fmt: skip
    step = lambda p, b: forward(graph, p, objectives, b, KEYS[:4], train=True)
    assert jax.eval_shape(step, params, batch)[0].shape == ()
    assert [params["model"][pool]["prompts"].shape for pool in POOLS] == [(2048, 768)] * 2
    assert sum(x.size for x in jax.tree.leaves(params)) // 10**6 == 309
    paths = [path_str(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    fast = {path.split("/")[1] for path in paths if re.search(run.optim.rules[0].pattern, path)}
    assert {path.split("/")[1] for path in paths} - fast == {
        "text_embed", "image_embed", "text_encoder", "image_encoder",
    }  # fmt: skip


# -- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, value, error",
    [
        ("objectives/words/shown/objects", "text", "masked_words.shown.objects='text': no modality of vectors or of"),
        ("objectives/words/shown/boxes", "image", "masked_words.shown.boxes='image': no modality of vectors of the"),
        ("objectives/words/shown/text", "image", "masked_words.shown.text='image': no text of the run, which has"),
        ("objectives/words/head", "match", "masked_words.head='match': it gives numbers of a vector; name a part that"),
        ("objectives/match/head", "words", "matching.head='words': it gives losses of words of a stream; name a part"),
        ("objectives/match/shown/mismatched", 0.0, "matching.shown.mismatched=0.0: no pair would be mismatched"),
        ("objectives/contrast/temperature", 0.0, "contrastive.temperature=0.0: must be positive"),
        ("model/parts/image_encoder/reads", ["image_embed"], "the network gives no embedding of 'text', but of image"),
        ("model/parts/text_fill/tokens", 16, "'text_fill': tokens=16: must be 1 … 15, the tokens of 'text' without"),
        ("model/parts/compared/dim", 16, "'compared': dim=16: the vectors that it reads have 32 numbers together"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named_before_training(path, value, error):
    c = json.loads(json.dumps(config().to_dict(), default=list))
    *way, key = path.split("/")
    at = c
    for name in way:
        at = at[name]
    at[key] = value
    with pytest.raises(ValueError, match=error):
        run = build.parse(c)
        objectives = build.objectives(run)
        jax.eval_shape(init_function(build.models(run, objectives), objectives, 0)[1])
