"""GILL's three passes: against an independent NumPy writing, accumulated, on any mesh; what moves and what stays."""

import copy
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs import gill_common
from configs.systems import gill
from pretrain import build, optim, sharding
from pretrain.checkpoint import load_params
from pretrain.models.passes import draw, evaluate, leaves
from pretrain.objectives import token_distance
from pretrain.objectives.sequences import Preceding
from pretrain.restore import init_function, restore
from pretrain.step import Models, accumulate, example_keys, forward, init_state, make_train_step
from pretrain.train import train

B, LENGTH, PROMPT, SIDES, WIDTH, IMG, VOCAB = 8, 5, 4, 3, 7, (12, 14, 13), 16
OPT, CLIP, TARGET = dict(dim=12, depth=2, heads=3), dict(dim=8, depth=1, heads=2), dict(dim=10, depth=1, heads=2)
MAPPER, EPS = dict(dim=8, depth=1, heads=4), 1e-5


def config(preceded=0.5, positions=30, **learned) -> dict:
    parts = gill_common.encoders(OPT, CLIP, TARGET | dict(pad_id=0), positions=positions, reads="img")
    sizes = dict(width=12, target=10, queries=PROMPT, tokens=2, embed_dim=6) | learned
    parts |= gill_common.learned(IMG, MAPPER, **sizes)
    text = dict(kind="sequence", vocab="words", vocab_size=VOCAB, tokenizer="none")
    return dict(
        steps=4, batch_size=B, data=dict(source="none"),
        model=dict(model="models.network", parts=parts, dtype="float32"),
        modalities=[
            dict(name="text", shape=(LENGTH,), field="text", **text),
            dict(name="image", kind="vectors", shape=(SIDES, WIDTH), field="image", targets=False),
            dict(name="prompt", shape=(PROMPT,), field="prompt", **text),
        ],
        objectives=gill_common.objectives(IMG, preceded), train=gill_common.trained(IMG, fresh=True),
        optim=dict(lr=0.05, weight_decay=0.1),
    )  # fmt: skip


@functools.cache
def made(preceded=0.5):
    """(run, objectives, graph, roles, parameters that are not trivial, a batch in which something lacks)."""
    run = build.parse(config(preceded))
    objectives = build.objectives(run)
    graph, init = init_function(build.models(run, objectives), objectives, 0)
    params = tiny.noisy(jax.jit(init)(), noise=0.2)
    rng = np.random.default_rng(0)
    lengths = {"text": rng.integers(1, LENGTH + 1, B), "prompt": rng.integers(1, PROMPT + 1, B)}
    lengths["text"][4], lengths["prompt"][1] = 0, 0  # the first of a pair has no text
    batch = {"row": np.arange(B), "step": np.zeros(B, np.int32)}
    for name, most in (("text", LENGTH), ("prompt", PROMPT)):
        valid = np.arange(most) < lengths[name][:, None]
        batch[name] = {"ids": np.where(valid, rng.integers(1, 12, (B, most)), 0).astype(np.int16), "valid": valid}
    there = np.ones((B, SIDES), bool)
    there[[2, 7]] = False
    batch["image"] = {"vectors": rng.normal(size=(B, SIDES, WIDTH)).astype(np.float32), "valid": there}
    return run, objectives, graph, init.roles, params, jax.tree.map(jnp.asarray, batch)


def drawn(objectives, batch, keys) -> dict:
    """{pass: whether second examples stand behind first ones}."""
    out = {}
    for name in ("caption", "retrieve", "generate"):
        nodes = objectives[name].sequence.nodes(objectives[name].context, True)
        before = next(leaf for leaf in leaves(nodes.values()) if isinstance(leaf.make, Preceding))
        out[name] = bool(before.make(batch, keys)[before.item].tokens.valid.any())
    return out


@functools.cache
def keys():
    """Keys under which two of the passes put examples together and one does not."""
    _, objectives, *_, batch = made()
    for step in range(20):
        found = drawn(objectives, batch, example_keys(0, step, B))
        if found == dict(caption=True, retrieve=True, generate=False):
            return example_keys(0, step, B)
    raise AssertionError("no such step")


# -- The network and the loss in NumPy, an example and a token at a time ---------------------------------------------


def norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS) * p["scale"] + p["bias"]


def linear(p, x):
    return x @ p["kernel"] + (p["bias"] if "bias" in p else 0.0)


def attention(q, k, v, heads, causal):
    out, d = np.zeros_like(q), q.shape[-1] // heads
    for h in range(heads):
        at = slice(h * d, (h + 1) * d)
        for i in range(len(q)):
            seen = i + 1 if causal else len(k)
            scores = k[:seen, at] @ q[i, at] / math.sqrt(d)
            weights = np.exp(scores - scores.max())
            out[i, at] = weights / weights.sum() @ v[:seen, at]
    return out


def stack(p, x, heads, activation, *, causal=False, context=None):
    """Blocks and the last norm; x `[N, D]`."""
    depth = len(jax.tree.leaves(p["blocks"])[0])
    for layer in range(depth):
        block = jax.tree.map(lambda a, layer=layer: a[layer], p["blocks"])
        mine = block["attn"]
        x = x + linear(
            mine["proj"], attention(*np.split(linear(mine["qkv"], norm(mine["norm"], x)), 3, -1), heads, causal)
        )
        if context is not None:
            mine = block["cross_attn"]
            k, v = np.split(linear(mine["kv"], norm(mine["context_norm"], context)), 2, -1)
            x = x + linear(mine["proj"], attention(linear(mine["q"], norm(mine["norm"], x)), k, v, heads, False))
        mine = block["mlp"]
        x = x + linear(mine["fc2"], activation(linear(mine["fc1"], norm(mine["norm"], x))))
    return norm(p["norm"], x)


RELU, QUICK = lambda x: np.maximum(x, 0), lambda x: x / (1 + np.exp(-1.702 * x))


def picture(m, rows):
    """The class token of a picture's encoder."""
    x = np.concatenate([m["image_embed"]["cls"][None], linear(m["image_embed"]["patches"], rows)])
    x = norm(m["image_embed"]["norm"], x + m["image_embed"]["positions"])
    return stack(m["image_encoder"], x, CLIP["heads"], QUICK)[0]


def language(m, tokens):
    """tokens: list of `[D]` → what the model gives for each."""
    x = np.stack(tokens) + m["join"]["positions"][: len(tokens)]
    return stack(m["language"], x, OPT["heads"], RELU, causal=True)


def logsumexp(x):
    return x.max() + np.log(np.exp(x - x.max()).sum())


def sequences(together):
    """Pairs as they are read: (first, second) as one, or each alone."""
    return [(i, i + 1) for i in range(0, B, 2)] if together else [(i,) for i in range(B)]


def numpy_loss(params, batch, coins) -> dict:
    """{term: value}."""
    m = params["model"]
    table, cls = m["embed_text"]["table"], m["embed_text"]["cls"]
    words = [batch["text"]["ids"][i][batch["text"]["valid"][i]] for i in range(B)]
    shown = [picture(m, batch["image"]["vectors"][i]) if batch["image"]["valid"][i].any() else None for i in range(B)]
    score = lambda h, word: logsumexp(table @ h) - table[word] @ h

    nll = []
    for members in sequences(coins["caption"]):
        tokens, at = [], []  # at: (where a word stands, the word)
        for i in members:
            if shown[i] is not None:
                tokens += list(linear(m["visual"]["linear"], shown[i]).reshape(-1, OPT["dim"]))
            if len(words[i]):
                tokens.append(cls)
            for word in words[i]:
                at += [(len(tokens), word)] if shown[i] is not None else []
                tokens.append(table[word])
        out = language(m, tokens) if tokens else []
        nll += [score(out[n - 1], word) for n, word in at]
    terms = {"caption/nll": np.mean(nll)}

    outputs = {}
    for name in ("retrieve", "generate"):
        nll, found = [], {}
        for members in sequences(coins[name]):
            tokens, at, first = [], [], {}
            for i in (i for i in members if len(words[i])):
                tokens.append(cls)
                for word in (*words[i], IMG[0]):
                    at.append((len(tokens), word))
                    tokens.append(table[word])
                first[i] = len(tokens) - 1
                tokens += [table[row] for row in IMG[1:]]
            if tokens:
                out = language(m, tokens)
                nll += [score(out[n - 1], word) for n, word in at]
                found |= {i: out[n : n + len(IMG)] for i, n in first.items()}
        terms[f"{name}_words/nll"], outputs[name] = np.mean(nll), found

    unit = lambda x: x / np.linalg.norm(x)
    both = [i for i in range(B) if len(words[i]) and shown[i] is not None]
    a = np.stack([unit(linear(m["image_project"]["linear"], shown[i])) for i in both])
    b = np.stack([unit(linear(m["text_project"]["linear"], outputs["retrieve"][i][0])) for i in both])
    logits = np.exp(params["objective"]["retrieve"]["log_scale"]) * a @ b.T
    ways = [logsumexp(row) - row[i] for x in (logits, logits.T) for i, row in enumerate(x)]
    terms["retrieve/image~text"] = np.mean(ways)

    apart = []
    for i in (i for i in range(B) if len(words[i]) and batch["prompt"]["valid"][i].any()):
        ids = np.where(batch["prompt"]["valid"][i], batch["prompt"]["ids"][i], 0)  # padding is read, as id 0
        target = m["prompt_embed"]["table"][ids] + m["prompt_embed"]["positions"]
        target = stack(m["prompt_encoder"], target, TARGET["heads"], QUICK, causal=True)
        x = linear(m["all_img"]["linear"], outputs["generate"][i] + table[list(IMG)])
        x = stack(m["mapper_encoder"], x, MAPPER["heads"], RELU)
        y = stack(m["mapper"], m["mapper"]["queries"], MAPPER["heads"], RELU, context=x)
        y = linear(m["mapped"]["linear"], y)
        apart += [math.sqrt(((y[n] - target[n]) ** 2).sum()) for n in range(PROMPT)]
    return terms | {"generate/l2": np.mean(apart)}


SCALES = {"retrieve_words/nll": 0.5, "generate_words/nll": 0.5}


def total(terms):
    return sum(SCALES.get(name, 1.0) * value for name, value in terms.items())


@functools.cache
def undivided():
    """((loss, terms), gradient)."""
    _, objectives, graph, _, params, batch = made()
    run = jax.jit(jax.value_and_grad(lambda p: forward(graph, p, objectives, batch, keys(), train=True), has_aux=True))
    (loss, (terms, _)), grads = run(params)
    return jax.device_get(((loss, terms), grads))


def exact(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(tree))


@pytest.mark.slow
def test_the_loss_equals_numpy():
    """Two examples are one sequence without a gap in it, as in the release; here the second reads the first."""
    _, objectives, *_, params, batch = made()
    coins, batch = drawn(objectives, batch, keys()), jax.device_get(batch)
    (loss, terms), _ = undivided()
    want = numpy_loss(exact(params), batch, coins)
    assert want.keys() == terms.keys()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name].total / terms[name].weight, value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, total(want), rtol=1e-5)
    # And with the passes drawn otherwise, it is another loss.
    assert abs(total(numpy_loss(exact(params), batch, dict.fromkeys(coins, False))) - loss) > 1e-3


PATHS = [  # of every part that is trained some numbers
    "model/visual/linear/kernel", "model/image_project/linear/kernel", "model/text_project/linear/kernel",
    "model/all_img/linear/kernel", "model/mapper_encoder/blocks/attn/qkv/kernel", "model/mapper/queries",
    "model/mapper/blocks/cross_attn/kv/kernel", "model/mapped/linear/bias", "objective/retrieve/log_scale",
]  # fmt: skip


def test_the_gradient_equals_numpy():
    _, objectives, *_, params, batch = made()
    coins, batch = drawn(objectives, batch, keys()), jax.device_get(batch)
    _, grads = undivided()
    params = exact(params)
    of = lambda tree, path: functools.reduce(lambda t, key: t[key], path.split("/"), tree)
    chosen = [(path, np.unravel_index(np.abs(of(grads, path)).argmax(), of(grads, path).shape)) for path in PATHS]
    rows = "model/embed_text/table"
    chosen += [(rows, (row, int(np.abs(of(grads, rows)[row]).argmax()))) for row in IMG]
    for path, at in chosen:
        moved = []
        for step in (1e-5, -1e-5):
            other = copy.deepcopy(params)
            *way, last = path.split("/")
            owner = functools.reduce(lambda t, key: t[key], way, other)
            owner[last] = np.array(owner[last])
            owner[last][at] += step
            moved.append(total(numpy_loss(other, batch, coins)))
        np.testing.assert_allclose(of(grads, path)[at], (moved[0] - moved[1]) / 2e-5, rtol=5e-4, err_msg=path)


@pytest.mark.slow
def test_accumulation_changes_nothing():
    _, objectives, graph, _, params, batch = made()
    loss, _, grads = jax.jit(lambda p, b: accumulate(graph, p, objectives, b, keys(), 2))(params, batch)
    (want, _), expected = undivided()
    laws.close_trees((want, expected), (loss, grads), 2e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    _, objectives, graph, roles, params, batch = made()
    mesh = sharding.make_mesh(sharding.parse_mesh("data=2,fsdp=2,tensor=2"))
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(lambda p, b: forward(graph, p, objectives, b, keys(), train=True)[0]),
            in_shardings=(sharding.state_sharding(params, roles, mesh), sharding.batch_sharding(mesh)),
        )
        found = jax.device_get(step(params, batch))
    (loss, _), grads = undivided()
    laws.close_trees((loss, grads), found, 2e-5)


# -- What moves and what stays ---------------------------------------------------------------------------------------


@functools.cache
def trained(norms=True):
    """(parameters before, after three steps, the gradient that reached what learns)."""
    run, objectives, graph, roles, params, batch = made()
    objectives = {name: o for name, o in objectives.items() if norms or name != "norms"}
    params = params | {"objective": {name: params["objective"][name] for name in objectives}}
    split = build.split(run, params, roles)
    own, base = split.trained(params, 0), split.base(params)
    optimizer = optim.make_optimizer(run.optim, own, run.steps, split.roles)
    step = jax.jit(make_train_step(graph, objectives, optimizer, seed=0, steps=run.steps, split=split))
    state, given = init_state(own, optimizer), {k: v for k, v in batch.items() if k != "step"}
    for _ in range(3):
        state, metrics = step(state, given, base)
    assert not metrics["skipped"]
    return jax.device_get((params, split.whole(state.params, base), own))


def logits(params, rows):
    """Of plain captions, over these rows of the table."""
    _, objectives, graph, *_, batch = made()
    network = Models(graph, params)["online"]
    one = objectives["caption"]
    words = one.sequence.nodes(one.context, False)["embed_text"]
    node = network.states.over("language", {"join": network.states.call("join", words)})
    return (
        evaluate([node], {"online": network}, draw([node], batch, None))[node].x
        @ params["model"]["embed_text"]["table"][rows].T
    )


def test_old_tokens_keep_their_logits_to_the_bit_and_only_new_rows_move():
    before, after, own = trained()
    old = jnp.asarray([i for i in range(VOCAB) if i not in IMG])
    run = jax.jit(logits)
    np.testing.assert_array_equal(run(before, old), run(after, old))
    assert (np.asarray(run(before, jnp.asarray(IMG))) != run(after, jnp.asarray(IMG))).all()
    still = ("embed_text", "join", "language", "image_embed", "image_encoder", "prompt_embed", "prompt_encoder")
    for part in still[1:]:
        jax.tree.map(np.testing.assert_array_equal, after["model"][part], before["model"][part])
    np.testing.assert_array_equal(after["model"]["embed_text"]["cls"], before["model"]["embed_text"]["cls"])
    assert not set(still[1:]) & own["model"].keys() and own["model"]["embed_text"]["table"].shape == (len(IMG), 12)
    for part in set(after["model"]) - set(still):
        moved = [(a != b).any() for a, b in zip(*map(jax.tree.leaves, (after["model"][part], before["model"][part])))]
        assert all(moved), part  # gradients pass through what is frozen


def test_new_rows_take_the_mean_norm_of_the_others_after_every_step():
    _, after, _ = trained()
    lengths = np.linalg.norm(after["model"]["embed_text"]["table"].astype(np.float64), axis=1)
    others = np.delete(lengths, IMG).mean()
    np.testing.assert_allclose(lengths[list(IMG)], others, rtol=1e-6)
    free = np.linalg.norm(trained(norms=False)[1]["model"]["embed_text"]["table"], axis=1)
    assert np.abs(free[list(IMG)] / others - 1).max() > 0.01, "without the projection they leave it"


def test_rows_that_are_not_trained_keep_their_bits():
    """A rule that trains others: the objective changes what learns, and nothing else."""
    run, objectives, _, roles, params, _ = made()
    whole = objectives["norms"].update(None, params["model"], {})
    other = build.parse(config() | dict(train=[dict(parts=["visual"])]))
    split = build.split(dataclasses.replace(run, train=other.train), params, roles)
    own = split.trained(params, 0)
    put = split.put(own, params | {"model": whole})
    jax.tree.map(np.testing.assert_array_equal, put, own)


# -- The traps -------------------------------------------------------------------------------------------------------


def read(name, preceded, train=True):
    """The outputs of an objective's passes, with examples always or never behind others."""
    _, objectives, graph, _, params, batch = made()
    one = objectives[name]
    one = dataclasses.replace(one, sequence=dataclasses.replace(one.sequence, preceded=preceded))
    passes = one.passes(train)
    nodes = list(passes.values())
    data = draw(nodes, batch, example_keys(0, 0, B))
    values = jax.jit(lambda p: list(map(evaluate(nodes, Models(graph, p), data).get, nodes)))(params)
    return jax.device_get(dict(zip(passes, values)))


@pytest.mark.parametrize("name, output", [("caption", "nll"), ("retrieve", ("z", "text")), ("generate", "found")])
def test_only_the_second_of_two_reads_the_other_and_none_in_evaluation(name, output):
    alone, behind, judged = (read(name, p, train)[output] for p, train in ((0.0, True), (1.0, True), (1.0, False)))
    np.testing.assert_allclose(judged, alone, rtol=1e-4, atol=1e-5)
    apart = np.abs(behind - alone).reshape(B, -1).max(1)
    assert apart[[0, 2, 6]].max() < 1e-5
    assert apart[[1, 3]].min() > 1e-3, "a text stands before them"
    if name != "caption":
        assert apart[5] < 1e-5, "what lacks its text stands before nobody"


def test_the_draw_is_of_the_batch_and_of_each_pass():
    _, objectives, *_, batch = made()
    found = [drawn(objectives, batch, example_keys(1, step, B)) for step in range(200)]
    share = {name: np.mean([coins[name] for coins in found]) for name in found[0]}
    assert all(0.4 < x < 0.6 for x in share.values()), share
    for a, b in (("caption", "retrieve"), ("retrieve", "generate"), ("caption", "generate")):
        assert 0.35 < np.mean([coins[a] == coins[b] for coins in found]) < 0.65
    assert objectives["retrieve"].sequence == objectives["retrieve_words"].sequence


def test_the_scale_is_not_clamped_and_starts_as_said():
    one = made()[1]["retrieve"]
    np.testing.assert_allclose(one.scale({"log_scale": jnp.log(300.0)}), 300, rtol=1e-5)
    np.testing.assert_allclose(one.init(None)["log_scale"][...], math.log(1 / 0.07), rtol=1e-6)


def test_the_distance_is_not_squared_and_has_no_slope_at_0():
    one: token_distance.Objective = made()[1]["generate"]
    outputs = read("generate", 0.0)
    target = outputs["target"].x
    loss = lambda y: one.totals({}, outputs | {"found": y}, train=True, run=None)["l2"]
    there = 6  # of 8 examples one has no text, one no prompt
    np.testing.assert_allclose(loss(target + 3 * np.eye(10)[0]), 3 * there, rtol=1e-5)
    grads = jax.grad(loss)(jnp.asarray(target))
    assert np.isfinite(grads).all() and not grads.any()


def test_the_tokens_of_a_picture_are_as_many_as_asked_and_of_its_modality():
    _, objectives, graph, _, params, batch = made()
    one = objectives["caption"]
    node = one.sequence.nodes(one.context, False)["visual"]
    network = Models(graph, params)["online"]
    stream = evaluate([node], {"online": network}, draw([node], batch, None))[node]
    assert stream.x.shape == (B, 2, 12) and (stream.modality[0] == 1).all()
    assert not stream.valid[2].any() and stream.valid[0].all()


# -- What is refused -------------------------------------------------------------------------------------------------


NORMS = dict(norms=dict(objective="row_norms", part="embed_text", rows=IMG))


def changed(**changes):
    c = copy.deepcopy(config())
    for path, value in changes.items():
        *way, key = path.split("__")
        functools.reduce(lambda at, name: at[name], way, c)[key] = value
    return c


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(objectives__caption__sequence__join="nose"), "next_token.sequence.join='nose': the network has no such"),
        (dict(objectives__caption__sequence__segments=[]), r"sequence.segments=\(\): name the parts"),
        (dict(objectives__caption__sequence__segments=["words"]), "segments='words': needs a part that gives a stream"),
        (dict(objectives__caption__sequence__segments=["embed_text", "visual"]), "must be of a text, not of 'image'"),
        (dict(objectives__generate__sequence__preceded=1.5), "sequence.preceded=1.5: must be a probability"),
        (dict(objectives__caption__head="mapped"), "next_token.head='mapped': it scores no words"),
        (dict(objectives__retrieve__edges=[dict(a="image", b="text2")]), "no modality 'text2'"),
        (dict(objectives__generate__found="words"), "token_distance.found='words': needs a part that predicts numbers"),
        (dict(objectives__generate__target="image_pool"), "target='image_pool': needs a part that gives a stream"),
        (dict(objectives__generate__target="language"), "found='mapped': dim=10, but 'language' has dim=12"),
        (dict(objectives__norms__rows=[16]), r"row_norms.rows=\(16,\): name ids of 0…15"),
        (dict(objectives__norms__part="image_embed"), "row_norms.part='image_embed': it has no table"),
        (dict(model__parts__img__rows=[]), r"'img': rows=\(\): name at least one token"),
        (dict(model__parts__img__rows=[16]), r"'img': rows=\(16,\): must be ids of 'text', 0…15"),
        (dict(model__parts__img__reads=["image_embed"], objectives=NORMS), "'img': .* the part that embeds a text"),
        (dict(model__parts__img__dim=8), "'img': dim=8: 'embed_text' gives tokens of width 12"),
        (dict(model__parts__join__length=0), "'join': length=0: must be at least 1"),
        (dict(model__parts__join__length=9), "'join': length=9: a sequence has 1[0-9] slots: raise it"),
        (dict(model__parts__join__reads=["img", "image_pool"], objectives=NORMS), "'join': .*: it gives no stream"),
        (dict(model__parts__visual__tokens=0), "'visual': tokens=0: must be at least 1"),
        (dict(model__parts__visual__reads=["image_pool"]), "'visual': reads=.*: name the part that gives the vector"),
        (dict(model__parts__first_img__dim=8), "'first_img': dim=8: 'language' gives tokens of width 12"),
        (dict(model__parts__previous__dim=8), "'previous': dim=8: 'language' gives tokens of width 12"),
        (dict(model__parts__all_img__reads=["language", "prompt_encoder"]), "'all_img': .*streams of one width; it is"),
        (dict(model__parts__all_img__tokens=0), "'all_img': tokens=0: must be at least 1"),
        (dict(model__parts__mapper__queries=0), "'mapper': queries=0: must be at least 1"),
        (dict(model__parts__mapper__causal=True), "'mapper': causal=True: an encoder has it"),
        (dict(model__parts__mapper__queries=3), "token_distance.found='mapped': it gives 3 tokens .*_encoder' 4"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named_before_training(changes, error):
    *_, batch = made()
    with pytest.raises(ValueError, match=error):
        run = build.parse(changed(**changes))
        objectives = build.objectives(run)
        graph, init = init_function(build.models(run, objectives), objectives, 0)
        params = jax.eval_shape(init)
        jax.eval_shape(lambda p: forward(graph, p, objectives, batch, example_keys(0, 0, B), train=True)[0], params)


# -- The runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tiny_run_starts_from_the_one_that_makes_its_encoders(tmp_path):
    """Else its encoders start fresh, as the run says; without that rule it is refused."""
    short = dict(steps=2, batch_size=16)
    for arg, more in (("language", {}), ("tiny", dict(load=str(tmp_path / "language")))):
        c = gill.get_config(arg)
        c.update(short | more)
        c.optim.warmup, c.evals.val = 1, dict(evaluator="losses", batch_size=16, every=2)
        train(c, tmp_path / arg)
    begun, whole = (jax.device_get(restore(tmp_path / name).params["model"]) for name in ("language", "tiny"))
    for part in ("join", "language", "image_encoder", "prompt_encoder"):
        jax.tree.map(np.testing.assert_array_equal, whole[part], begun[part])
    old = [i for i in range(8000) if i not in gill.SMALL_IMG]
    np.testing.assert_array_equal(whole["embed_text"]["table"][old], begun["embed_text"]["table"][old])
    assert load_params(tmp_path / "tiny")["model"]["embed_text"]["table"].shape == (8, 64)
    c = gill.get_config("tiny")
    c.train, c.optim.warmup = gill_common.trained(gill.SMALL_IMG), 1
    c.update(short)
    with pytest.raises(ValueError, match=r"config.load: nothing there gives model/.*, which this run does not"):
        train(c, tmp_path / "refused")
