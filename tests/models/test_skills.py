"""Skills: MLPs that a token's modality chooses, inside a block of the one stack (SkillNet, arXiv 2205.06126)."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from configs.systems.skillnet import get_config, one_model, rows
from data_pipeline.spec import Modality
from pretrain import build, optim
from pretrain.initialize import Source, start
from pretrain.models.passes import Leaf, compute
from pretrain.models.stream import NO_MODALITY, prepend
from pretrain.models.tokens import Whole
from pretrain.restore import init_function
from pretrain.sharding import MeshConfig, batch_sharding, make_mesh, state_sharding
from pretrain.step import accumulate, example_keys, forward, init_state, make_train_step

SPECS = [rows("a", 3, 6), rows("b", 4, 7), rows("c", 2, 5)]
EDGES = [("a", "b"), ("a", "c")]
TWO = [
    dict(name="first", modalities=["a"]), dict(name="others", modalities=["b", "c"]),
    dict(name="all", modalities=["a", "c"]),
]  # fmt: skip
B = 8


class Small:
    """A run of one stack over `specs`, its norms and biases no longer trivial."""

    def __init__(self, specs=SPECS, edges=EDGES, seed=0, **encoder):
        c = one_model(specs, edges, dim=8, heads=2, depth=2, embed_dim=4, batch_size=B, steps=10, optim=dict(lr=1e-2))
        c.data, c.evals, c.final_evals, c.model.dtype = dict(source="none"), {}, {}, "float32"
        c.model.parts.encoder.update(dict(mlp_ratio=1.5) | encoder)
        self.run = build.parse(c)
        self.objectives = build.objectives(self.run)
        self.graphs, init = init_function(build.models(self.run, self.objectives), self.objectives, seed)
        self.params, self.roles = tiny.noisy(jax.jit(init)(), seed), init.roles
        self.keys = example_keys(0, 0, B)

    def batch(self, missing=0.3):
        every = jax.tree.map(jnp.asarray, tiny.batch(B, modalities=self.run.modalities, missing=missing))
        return every | {"step": jnp.zeros(B, jnp.int32)}

    def loss(self, params, batch):
        return forward(self.graphs, params, self.objectives, batch, self.keys, train=True)[0]

    def model(self, params=None):
        return nnx.merge(self.graphs["online"], (params or self.params)["model"])

    def out(self, names, batch, part="encoder", params=None):
        """What a part gives of modalities side by side."""
        model = self.model(params)
        return compute(model, {0: model.states.chain(part, Leaf(Whole(names, self.run.modalities)))}, batch)[0]


def skills(params) -> dict:
    return params["model"]["encoder"]["blocks"]["skills"]["each"]


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def numpy_encoder(stream, params, names, given):
    """`given`: {modality number: its skills}. Heads of width 4; every token by itself through its skills."""
    x, valid, kinds = (np.asarray(a) for a in (stream.x, stream.valid, stream.modality))
    x, p = x.astype(np.float64), jax.tree.map(lambda w: np.asarray(w, np.float64), params["model"]["encoder"])
    for layer in range(2):
        block = jax.tree.map(lambda w, layer=layer: w[layer], p["blocks"])
        q, k, v = np.split(linear(norm(x, block["attn"]["norm"]), block["attn"]["qkv"]), 3, -1)
        heads = []
        for h in (slice(0, 4), slice(4, 8)):
            scores = np.einsum("bnd,bmd->bnm", q[..., h], k[..., h]) / 2
            weights = np.exp(scores - scores.max(-1, keepdims=True)) * valid[:, None]
            heads.append(weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30) @ v[..., h])
        x = x + linear(np.concatenate(heads, -1), block["attn"]["proj"])
        y, z = np.zeros_like(x), norm(x, block["skills"]["norm"])
        for b, n in np.argwhere(valid):
            mine = [block["skills"]["each"][s] for s in given.get(int(kinds[b, n]), ())]
            y[b, n] = sum(linear(gelu(linear(z[b, n], s["fc1"])), s["fc2"]) for s in mine) / max(len(mine), 1)
        x = x + y
    return norm(x, p["norm"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder, given",
    [
        ({}, {0: ["a"], 1: ["b"], 2: ["c"]}),
        (dict(skills=TWO), {0: ["first", "all"], 1: ["others"], 2: ["others", "all"]}),
        (dict(registers=2), {0: ["a"], 1: ["b"], 2: ["c"]}),
    ],
    ids=["one each", "several", "registers have none"],
)
def test_a_block_equals_numpy(encoder, given):
    """Tokens of three modalities side by side, some of them missing."""
    small = Small(**encoder)
    batch, names = small.batch(), ("a", "b", "c")
    got = small.out(names, batch)
    stream = small.out(names, batch, part="embed")
    if "registers" in encoder:
        stream = prepend(small.params["model"]["encoder"]["registers"], stream)
    want = numpy_encoder(stream, small.params, names, given)
    counted = np.asarray(got.valid)
    np.testing.assert_allclose(np.asarray(got.x)[counted], want[counted], atol=2e-5)


def numpy_loss(small, params, batch):
    """Both edges' symmetric cross-entropies over those that have both, from what is embedded."""
    project, scale = (
        params["model"]["project"]["linear"]["kernel"],
        np.exp(params["objective"]["contrastive"]["log_scale"]),
    )
    z = {}
    for i, n in enumerate("abc"):
        stream = small.out((n,), batch, part="embed")
        x, valid = numpy_encoder(stream, params, (n,), {i: [n]}), np.asarray(stream.valid)[..., None]
        y = (x * valid).sum(1) / np.maximum(valid.sum(1), 1) @ project
        z[n] = y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12), valid.any((1, 2))
    total = 0.0
    for a, b in EDGES:
        there = z[a][1] & z[b][1]
        s = scale * z[a][0][there] @ z[b][0][there].T
        nll = lambda s: np.log(np.exp(s).sum(1)) - np.diag(s)
        total += (nll(s).mean() + nll(s.T).mean()) / 4
    return total


@pytest.mark.slow
def test_the_loss_and_its_gradient_equal_numpy():
    """The gradient along random directions against differences of the loss in double precision."""
    small = Small()
    batch = small.batch()
    loss, grads = jax.jit(jax.value_and_grad(small.loss))(small.params, batch)
    params = jax.tree.map(lambda w: np.asarray(w, np.float64), small.params)
    np.testing.assert_allclose(loss, numpy_loss(small, params, batch), rtol=1e-5)
    rng = np.random.default_rng(0)
    for name in "abc":  # of one skill at a time
        move = jax.tree.map(lambda w: rng.normal(size=w.shape), skills(params)[name])

        def at(step, name=name, move=move):
            moved = jax.tree.map(lambda w: w.copy(), params)
            skills(moved)[name] = jax.tree.map(lambda w, by: w + step * by, skills(params)[name], move)
            return numpy_loss(small, moved, batch)

        slope = sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(skills(grads)[name]), jax.tree.leaves(move)))
        np.testing.assert_allclose(slope, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-3, atol=1e-6)


def test_skills_that_no_token_of_a_batch_asks_for_have_gradients_of_zero():
    """Not NaN, and not nearly zero."""
    small = Small(edges=[("a", "b"), ("a", "c")])
    batch = small.batch(missing=0.0)
    batch["c"]["valid"] = jnp.zeros_like(batch["c"]["valid"])
    loss, grads = jax.jit(jax.value_and_grad(small.loss))(small.params, batch)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    each = {n: [bool(np.asarray(g).any()) for g in jax.tree.leaves(skills(grads)[n])] for n in "abc"}
    assert all(each["a"]) and all(each["b"]) and not any(each["c"])


def test_what_a_token_passes_through_is_one_dense_model():
    """As many parameters, and with the same ones the same outputs: "fewer active" is not "fewer"."""
    small, dense = Small(), Small(part="encoder")
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    ours, theirs = (s.params["model"]["encoder"] for s in (small, dense))
    inactive = count([skills(small.params)[n] for n in "bc"])
    assert count(ours) - inactive == count(theirs) and inactive == 2 * count(skills(small.params)["a"])
    blocks = ours["blocks"]
    for i, name in enumerate("abc"):
        mlp = blocks["skills"]["each"][name] | {"norm": blocks["skills"]["norm"]}
        encoder = ours | {"blocks": {"attn": blocks["attn"], "mlp": mlp}}
        params = {"model": small.params["model"] | {"encoder": encoder}}
        batch = small.batch()
        got, want = small.out((name,), batch), dense.out((name,), batch, params=params)
        counted = np.asarray(got.valid)
        np.testing.assert_allclose(np.asarray(got.x)[counted], np.asarray(want.x)[counted], atol=1e-5, err_msg=str(i))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["added at the end", "another order"])
def test_a_modality_that_is_added_changes_no_bit_of_what_was_there(order):
    """Through `config.load`: its skill is new, and that is reported; skills are found by their names."""
    old, new = Small(), [*SPECS, rows("d", 3, 4)]
    new = Small(new if order == "added at the end" else new[::-1], EDGES + [("a", "d")], seed=5)
    held = types.SimpleNamespace(params=old.params, roles=old.roles)
    whole = Source("there", held, {"model": "model", "objective": "objective"})
    params, report = start([whole], new.params, new.roles)
    fresh = [p for p in report.new if "/skills/" in p]
    assert fresh and all("/each/d/" in p for p in fresh) and not report.dropped
    batch = new.batch()
    for names in (("a",), ("b", "c")):
        got = new.out(names, batch, params=jax.tree.map(jnp.asarray, params))
        np.testing.assert_array_equal(got.x, old.out(names, batch).x)


def test_every_order_of_the_skills_is_the_same_model():
    small, turned = Small(skills=TWO), Small(skills=TWO[::-1])
    batch = small.batch()
    a, b = (s.out(("a", "b", "c"), batch, params=small.params).x for s in (small, turned))
    np.testing.assert_allclose(a, b, atol=1e-6)


def close(a, b, tolerance=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * max(np.abs(y).max(initial=0), 1e-3))


@pytest.mark.slow
def test_accumulated_it_is_the_same():
    """A skill may be without tokens in a microbatch."""
    small = Small()
    batch = small.batch(missing=0.5)
    loss, grads = jax.jit(jax.value_and_grad(small.loss))(small.params, batch)
    of = lambda p: accumulate(small.graphs, p, small.objectives, batch, small.keys, 4)
    got, _, got_grads = jax.jit(of)(small.params)
    close((got, got_grads), (loss, grads))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_on_eight_devices_it_is_the_same(mesh, monkeypatch):
    monkeypatch.setattr("pretrain.sharding.MIN_FSDP_SIZE", 1)  # these are small
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices")
    small = Small()
    batch = small.batch()
    alone = jax.jit(jax.value_and_grad(small.loss))(small.params, batch)
    mesh = make_mesh(MeshConfig(0, *mesh))
    with jax.set_mesh(mesh):
        params = jax.device_put(small.params, state_sharding(small.params, small.roles, mesh))
        meshed = jax.jit(jax.value_and_grad(small.loss))(params, jax.device_put(batch, batch_sharding(mesh)))
    close(meshed, alone)


@pytest.mark.slow
def test_a_step_trains_every_skill_and_the_loss_falls():
    small = Small()
    optimizer = optim.make_optimizer(small.run.optim, small.params, 30, small.roles)
    step = jax.jit(make_train_step(small.graphs, small.objectives, optimizer, seed=0))
    state, batch, losses = init_state(small.params, optimizer), small.batch(missing=0.0), []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), skills(state.params), skills(small.params))
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    "given, said",
    [
        ([dict(name="x", modalities=["a", "b"])], "modality 'c' has no skill: add it to the modalities of one"),
        ([dict(name="x", modalities=["a", "b", "c", "d"])], "no modality 'd' reaches this part, but a, b, c"),
        ([dict(name="x", modalities=["a", "b", "c"]), dict(name="y", modalities=[])], r"modalities=\(\) would never"),
        ([dict(name="x", modalities=["a", "b"]), dict(name="x", modalities=["c"])], "two skills have this name"),
    ],
)
def test_what_does_not_fit_is_named_before_training(given, said):
    with pytest.raises(ValueError, match=rf"model\.parts: 'encoder': skills=.*{said}"):
        Small(skills=given)


def test_a_mistyped_key_of_a_skill_is_named():
    with pytest.raises(ValueError, match=r"skills\[0\]\.modality='a': unknown key; did you mean 'modalities'"):
        Small(skills=[dict(name="x", modality="a")])


def test_a_modality_of_another_part_needs_no_skill():
    """Only those that reach the stack do."""
    c = one_model(SPECS, EDGES, dim=8, heads=2, depth=1, embed_dim=4, batch_size=B, steps=10, optim={})
    c.data, c.model.parts.embed.reads = dict(source="none"), ["a", "b"]
    run = build.parse(c)
    graph = nnx.eval_shape(lambda: build.models(run, {})["online"](nnx.Rngs(0)))
    assert set(graph.encoder.blocks.skills.each) == {"a", "b"}
    assert graph.encoder.blocks.skills.route == ((0,), (1,), (-1,)) and NO_MODALITY == -1


def test_the_published_skills_are_five_and_their_width_is_active_once():
    run = build.parse(get_config())
    graph = nnx.eval_shape(lambda: build.models(run, build.objectives(run))["online"](nnx.Rngs(0)))
    each = graph.encoder.blocks.skills.each
    assert set(each) == {"text", "image", "sound", "video", "code"} and each["text"].fc1.kernel.shape == (12, 768, 3072)
    assert isinstance(run.modalities[0], Modality)
