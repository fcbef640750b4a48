"""MaPLe as a run: its loss against NumPy, what learns, exact accumulation, any mesh, and wrong settings."""

import copy
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from configs import clip_b16
from configs.systems import maple
from data_pipeline.text import TextTokenizer
from pretrain import build, optim
from pretrain.evals.base_novel import among, harmonic
from pretrain.models import network
from pretrain.models.passes import draw, evaluate
from pretrain.parameters import path_str
from pretrain.restore import init_function, restore
from pretrain.step import Models, accumulate, example_keys, forward, init_state, make_train_step
from pretrain.train import train

SIZE, DIM, LAYERS = 8, 16, 2
CLASSES = tuple(maple.GROUPS)
BASE = CLASSES[:5]


def config(how=maple.COUPLED, layers=LAYERS, length=2, frozen=True, **objective):
    c = maple.get_config("tiny")
    towers = dict(image=dict(dim=DIM, heads=2, depth=3), text=dict(dim=12, heads=2, depth=2))
    words = tuple(build.TextTokenizer().encode("a photo of a", 16)[:-1])
    parts = maple.parts(towers, 8, how=how, length=length, layers=layers, at=0, words=words)
    c.model = dict(model="models.network", parts=parts, dtype="float32")
    c.objectives.contrastive.update(objective)
    if frozen:
        c.train = [dict(pattern="_prompts/")]
    c.steps, c.batch_size, c.optim.warmup = 4, SIZE, 1
    return c


class Built:
    """Objectives, graphs and parameters of a config, none of them trivial."""

    def __init__(self, **changes):
        run = self.run = build.parse(config(**changes))
        self.objectives = build.objectives(run)
        self.graphs, self.init = init_function(build.models(run, self.objectives), self.objectives, 0)
        params = jax.jit(self.init)()
        keys = iter(jax.random.split(jax.random.key(7), 200))
        self.params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)
        self.params["objective"]["contrastive"]["log_scale"] = jnp.float32(1.2)

    def loss(self, params, batch, train=True):
        given = batch | {"step": jnp.zeros(SIZE, jnp.int32)}
        return forward(self.graphs, params, self.objectives, given, example_keys(0, 0, SIZE), train=train)

    def gradient(self, batch, params=None):
        """(loss, gradient, terms)."""
        value = jax.jit(jax.value_and_grad(lambda p, b: self.loss(p, b), has_aux=True))
        (loss, (terms, _)), grads = value(params or self.params, batch)
        return loss, grads, terms


@functools.cache
def built(**changes):
    return Built(**changes)


@functools.cache
def data() -> dict:
    """Pictures of noise; a class of every kind, one that is unknown, and one example without a picture."""
    rng = np.random.default_rng(0)
    valid = np.ones(SIZE, bool)
    valid[3] = False
    labels = np.asarray([0, 1, 2, 3, 4, 7, 2, 1])[:, None]  # the sixth is no base class
    known = np.ones((SIZE, 1), bool)
    known[7] = False
    return {
        "row": np.arange(SIZE),
        "image": {"pixels": rng.integers(256, size=(SIZE, 64, 64, 3), dtype=np.uint8), "valid": valid},
        "text": {"ids": np.zeros((SIZE, 16), np.int16), "valid": np.zeros((SIZE, 16), bool)},
        "group": {"ids": labels.astype(np.int16), "valid": known},
    }


# -- The formula -----------------------------------------------------------------------------------------------------


def numpy_norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def linear(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def numpy_tower(p, x, prompts, slots, heads, causal):
    """One example `[n, D]` through the blocks of an encoder; prompts overwrite `slots` before blocks 2 … J."""
    for i in range(len(p["blocks"]["attn"]["qkv"]["kernel"])):
        block = jax.tree.map(lambda a, i=i: a[i], p["blocks"])
        x = x.copy()
        if 0 < i < len(prompts):
            x[slots] = prompts[i]
        q, k, v = np.split(linear(block["attn"]["qkv"], numpy_norm(block["attn"]["norm"], x)), 3, -1)
        mixed = []
        for h in np.split(np.arange(x.shape[1]), heads):
            scores = q[:, h] @ k[:, h].T / len(h) ** 0.5
            scores = np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf) if causal else scores
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[:, h])
        x = x + linear(block["attn"]["proj"], np.concatenate(mixed, -1))
        hidden = linear(block["mlp"]["fc1"], numpy_norm(block["mlp"]["norm"], x))
        x = x + linear(block["mlp"]["fc2"], hidden / (1 + np.exp(-1.702 * hidden)))
    return numpy_norm(p["norm"], x)


def unit(z):
    return z / np.linalg.norm(z)


def numpy_loss(params, batch, how, classes=BASE):
    """MaPLe's loss, an example and a class at a time, in float64; prompts of a length of 2."""
    p, tokenizer = params["model"], build.TextTokenizer()
    words = tokenizer.encode("a photo of a", 16)[:2]
    texts = np.array(p["text_prompts"]["vectors"]) if how else np.zeros((0, 2, 12))
    if how:
        texts[0] += p["text_embed"]["table"][words]
    images = np.zeros((0, 2, DIM))
    if how == maple.INDEPENDENT:
        images = p["image_prompts"]["vectors"]
    if how == maple.COUPLED:
        maps = p["image_prompts"]["linears"]
        images = np.stack([t @ maps["kernel"][i] + maps["bias"][i] for i, t in enumerate(texts)])
    heads = []
    for name in classes:
        ids = tokenizer.encode(f"a photo of a {name}.", 16)
        x = p["text_embed"]["table"][ids]
        if how:
            x[:2] = texts[0]
        x = x + p["text_embed"]["positions"][: len(ids)]
        y = numpy_tower(p["text_encoder"], x, texts, slice(0, 2), 2, causal=True)[-1]
        heads.append(unit(linear(p["text_project"]["linear"], y)))
    nll, hits, known = [], [], batch["group"]["valid"][:, 0] & batch["image"]["valid"]
    for i in np.flatnonzero(known & (batch["group"]["ids"][:, 0] < len(classes))):
        pixels = batch["image"]["pixels"][i] / 127.5 - 1
        patches = pixels.reshape(8, 8, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(64, -1)
        x = linear(p["image_embed"]["patches"], patches)
        x = np.concatenate([p["image_embed"]["cls"][None], x]) + p["image_embed"]["positions"]
        x = np.concatenate([x, *images[:1]])
        x = numpy_norm(p["image_embed"]["norm"], x)
        y = numpy_tower(p["image_encoder"], x, images, slice(-2, None), 2, causal=False)[0]
        z = unit(linear(p["image_project"]["linear"], y))
        logits = np.exp(params["objective"]["contrastive"]["log_scale"]) * np.stack(heads) @ z
        nll.append(np.log(np.exp(logits).sum()) - logits[batch["group"]["ids"][i, 0]])
        hits.append(logits.argmax() == batch["group"]["ids"][i, 0])
    return np.mean(nll), np.mean(hits), len(nll)


@pytest.mark.slow
@pytest.mark.parametrize("how", [maple.COUPLED, maple.INDEPENDENT, maple.TEXTS, ""])
def test_equals_numpy(how):
    made, batch = built(how=how), data()
    loss, grads, terms = made.gradient(batch)
    exact = jax.tree.map(lambda x: np.array(x, np.float64), jax.device_get(made.params))
    wanted, hits, count = numpy_loss(exact, batch, how)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert terms["contrastive/accuracy"].weight == count == 5
    np.testing.assert_allclose(terms["contrastive/accuracy"].total / count, hits, rtol=1e-6)
    paths = [("text_prompts", "vectors")] if how else [("image_embed", "cls"), ("text_project", "linear", "kernel")]
    paths += [("image_prompts", "vectors")] if how == maple.INDEPENDENT else []
    paths += [("image_prompts", "linears", n) for n in ("kernel", "bias")] if how == maple.COUPLED else []
    for path in paths:
        found = functools.reduce(lambda tree, key: tree[key], path, grads["model"])
        # Of every block that has prompts, one number each.
        blocks = range(len(found)) if "prompts" in path[0] else [None]
        for block in blocks:
            part = np.abs(found if block is None else found[block])
            at = np.unravel_index(part.argmax(), part.shape)
            at, moved = at if block is None else (block, *at), []
            for step in (1e-5, -1e-5):
                other = copy.deepcopy(exact)
                functools.reduce(lambda tree, key: tree[key], path, other["model"])[at] += step
                moved.append(numpy_loss(other, batch, how)[0])
            np.testing.assert_allclose(found[at], (moved[0] - moved[1]) / 2e-5, rtol=5e-4, err_msg=f"{path} {at}")


def test_all_classes_compete_where_none_are_named():
    made, batch = built(among=()), data()
    exact = jax.tree.map(lambda x: np.array(x, np.float64), jax.device_get(made.params))
    wanted, _, count = numpy_loss(exact, batch, maple.COUPLED, CLASSES)
    np.testing.assert_allclose(made.gradient(batch)[0], wanted, rtol=1e-5)
    assert count == 6


@pytest.mark.parametrize("how, linked", [(maple.COUPLED, True), (maple.INDEPENDENT, False)])
def test_coupled_prompts_of_texts_learn_from_pictures_and_independent_ones_do_not(how, linked):
    """With the class texts' side of the gradient cut, nothing is left of independent ones."""
    made, batch = built(how=how), data()
    (o,) = made.objectives.values()
    nodes = o.passes(True)

    def loss(params):
        values = evaluate(nodes.values(), Models(made.graphs, params), draw(nodes.values(), batch, None))
        outputs = {k: values[n] for k, n in nodes.items()}
        outputs["classes"] = jax.lax.stop_gradient(outputs["classes"])
        return o.totals(params["objective"]["contrastive"], outputs, train=True, run=None)["nll"]

    grads = jax.jit(jax.grad(loss))(made.params)
    assert (np.abs(grads["model"]["text_prompts"]["vectors"]).max() > 0) == linked


# -- What learns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [maple.COUPLED, maple.TEXTS])
def test_prompts_alone_learn(how):
    """Every other parameter keeps its bits, the scale too; all of the prompts move."""
    made, batch = built(how=how), data()
    split = build.split(made.run, made.params, made.init.roles)
    own, base = split.trained(made.params, 0), split.base(made.params)
    optimizer = optim.make_optimizer(made.run.optim, own, made.run.steps, split.roles)
    step = jax.jit(make_train_step(made.graphs, made.objectives, optimizer, seed=0, steps=4, split=split))
    state = init_state(own, optimizer)
    for _ in range(3):
        state, metrics = step(state, batch, base)
    assert np.isfinite(metrics["loss"])
    whole = split.whole(state.params, base)

    def compare(path, new, old):
        path = path_str(path)
        if "_prompts/" in path:
            assert (np.asarray(new) != np.asarray(old)).mean() > 0.9 and new.dtype == jnp.float32, path
        else:
            np.testing.assert_array_equal(new, old, err_msg=path)

    jax.tree_util.tree_map_with_path(compare, whole, made.params)
    assert {p.split("/")[1] for p, _ in split.roles.items() if p.startswith("model/")} == (
        {"text_prompts", "image_prompts"} if how == maple.COUPLED else {"text_prompts"}
    )


@pytest.mark.slow
def test_the_scale_is_the_one_that_clip_learned(tmp_path):
    c = clip_b16.get_config("tiny")
    c.steps, c.batch_size, c.optim.warmup, c.checkpoint.every, c.log.every, c.evals = 2, 16, 1, 2, 1, {}
    c.final_evals, c.objectives.contrastive.temperature = {}, 0.3
    train(c, tmp_path / "clip")
    p = maple.get_config("tiny")
    p.steps, p.batch_size, p.optim.warmup, p.checkpoint.every, p.evals, p.final_evals = 2, 16, 1, 2, {}, {}
    p.load, p.train = str(tmp_path / "clip"), [dict(parts=["text_prompts", "image_prompts"])]
    train(p, tmp_path / "maple")
    clip, ours = (restore(tmp_path / name).params for name in ("clip", "maple"))
    scale = ours["objective"]["contrastive"]["log_scale"]
    assert scale == clip["objective"]["contrastive"]["log_scale"] != np.log(100).astype(np.float32)
    for name, tree in clip["model"].items():
        jax.tree.map(np.testing.assert_array_equal, ours["model"][name], tree)
    assert np.abs(ours["model"]["text_prompts"]["vectors"][0]).max() > 0


# -- The step --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("accum", [2, 4])
def test_accumulation_changes_nothing_and_writes_the_classes_once(accum, monkeypatch):
    made, batch = built(), data()
    loss, grads, _ = made.gradient(batch)
    ran, run = [], network.Network.run

    def count(self, part, *args, **more):
        ran.append((part, len(jax.tree.leaves(args)[0]) if args else 0))
        return run(self, part, *args, **more)

    monkeypatch.setattr(network.Network, "run", count)
    given, keys = batch | {"step": jnp.zeros(SIZE, jnp.int32)}, example_keys(0, 0, SIZE)
    found, _, parts = jax.jit(lambda p: accumulate(made.graphs, p, made.objectives, given, keys, accum))(made.params)
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    laws.close_trees(parts, grads, 1e-5)
    assert ran.count(("text_project", len(BASE))) == ran.count(("text_prompts", 0)) == 1
    assert ("image_project", SIZE // accum) in ran


@pytest.mark.slow
def test_eight_devices_are_one():
    made, batch = built(), data()
    loss, grads, _ = made.gradient(batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    given = jax.tree.map(lambda x: jax.device_put(jnp.asarray(x), NamedSharding(mesh, P("data"))), batch)
    found, sharded, _ = made.gradient(given)
    assert len(given["image"]["pixels"].sharding.device_set) == 8
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    laws.close_trees(sharded, grads, 1e-5)


@pytest.mark.slow
def test_the_program_of_a_mesh_runs(tmp_path):
    """Class texts, of which there are not as many as devices, in the step that a run compiles."""
    c = config(frozen=False)
    c.mesh, c.evals, c.final_evals, c.steps, c.checkpoint.every = "data=8", {}, {}, 2, 2
    assert int(train(c, tmp_path).step) == 2


# -- Metrics and settings --------------------------------------------------------------------------------------------


def test_base_and_novel():
    rng = np.random.default_rng(0)
    z, heads = rng.normal(size=(50, 4)), rng.normal(size=(6, 4))
    wanted = rng.integers(6, size=50)
    assert among(z, heads, wanted) == np.mean([(heads @ x).argmax() == w for x, w in zip(z, wanted)])
    assert among(z, np.ones((6, 4)), wanted) == 0, "ties count against the class"
    assert harmonic(0.8, 0.4) == pytest.approx(2 * 0.8 * 0.4 / 1.2) and harmonic(0.0, 0.0) == 0 == harmonic(0.5, 0.0)
    assert among(z[:0], heads, wanted[:0]) == 0.0


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(label="kind"), "label='kind': no labels with `classes` in config.labels; there are group"),
        (dict(among=("cars", "flags")), "among=.*'group' has no class 'cars', but smileys & emotion, people & body"),
        (dict(among=("flags",)), "among=.*name two classes or more, each once"),
        (dict(among=("flags", "flags")), "among=.*name two classes or more, each once"),
        (dict(template="a photo"), "template='a photo': needs one {} where the class name goes"),
        (dict(temperature=0.0), r"temperature=0\.0: must be positive"),
        (dict(modality="photo"), "no modality 'photo'; the run has image, text"),
        (dict(model="teacher"), "model='teacher': no such model"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build.objectives(build.parse(config(**changes)))


def passes(**changes):
    (o,) = build.objectives(build.parse(config(**changes))).values()
    return o.passes(True)


def test_templates_without_room_for_prompts_are_named():
    assert passes(template="of {}", length=1) and passes(template="{}", how="")
    with pytest.raises(ValueError, match=r"template='of \{\}': 2 prompts at=0 of 'text_prompts' need places before"):
        passes(template="of {}")
    with pytest.raises(ValueError, match=r"the text of '.*' is another's, too: give it a longer modality"):
        passes(template="one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen {}")
    c = config()
    c.objectives.contrastive.text = "image"
    (o,) = build.objectives(build.parse(c)).values()
    with pytest.raises(ValueError, match="modality 'image': no tokenizer writes it; texts of the run are text"):
        o.passes(True)


def test_the_words_of_the_config_are_the_tokenizers():
    assert maple.WORDS == tuple(TextTokenizer().encode("a photo of a", 16)[:-1])
