"""Fused streams: LXMERT's layer and co-attention against independent NumPy writings, who reads what; refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from data_pipeline import discover
from data_pipeline.spec import Modality
from pretrain.frozen import from_dict
from pretrain.models import blocks, network
from pretrain.models.passes import Asked, Leaf, call
from pretrain.models.stream import Stream
from pretrain.models.tokens import Whole

DIM, HEADS, DEPTH = 8, 2, 2
MODALITIES = (
    Modality("text", "sequence", (5,), "text", "t", 20, tokenizer="none"),
    Modality("objects", "vectors", (3, 6), "objects", targets=False),
    Modality("boxes", "vectors", (3, 4), "boxes", targets=False),
)
PARTS = dict(
    embed_text=dict(part="embed_one", reads=["text"], dim=DIM, cls=True),
    embed_objects=dict(part="embed_objects", reads=["objects", "boxes"], dim=DIM),
    cross=dict(part="fusion", reads=["embed_text", "embed_objects"], dim=DIM, heads=HEADS, depth=DEPTH),
    crossed=dict(part="pick", reads=["cross"], of="embed_objects", dim=DIM),
    pooled=dict(part="pooler", reads=["crossed"], dim=7),
    numbers=dict(part="predict", reads=["pooled"], dim=3, hidden=4),
    words=dict(part="word_head", reads=["embed_text"], table="embed_text"),
)


def config(**changes):
    parts = {name: part | changes.get(name, {}) for name, part in PARTS.items()}
    return from_dict(network.Config, dict(parts=parts, dtype="float32"), "config.model")


def make(seed=0, noise=0.3, **changes):
    """A network whose norms and biases are not trivial."""
    return tiny.perturbed(network.Network(config(**changes), MODALITIES, (), nnx.Rngs(seed)), seed, noise)


def streams(seed=0, empty=()):
    rng = np.random.default_rng(seed)
    out = []
    for i, n in enumerate((6, 3)):
        valid = rng.random((4, n)) < 0.8
        valid[:, 0], valid[list(empty) if i else []] = True, False
        zeros = jnp.zeros((4, n), jnp.int32)
        out.append(Stream(jnp.float32(rng.normal(size=(4, n, DIM))), jnp.asarray(valid), zeros + i, zeros))
    return out


# -- In NumPy --------------------------------------------------------------------------------------------------------


def norm(p, x, eps=1e-6):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(__import__("math").erf)(x / np.sqrt(2)))


def attention(proj, q, k, v, valid):
    """One example, one head at a time: q `[N, D]`, k and v `[M, D]`, valid `[M]`."""
    out = []
    for h in range(HEADS):
        part = slice(h * DIM // HEADS, (h + 1) * DIM // HEADS)
        scores = np.where(valid, q[:, part] @ k[:, part].T / np.sqrt(DIM // HEADS), -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out.append(weights / weights.sum(1, keepdims=True) @ v[:, part])
    return linear(proj, np.concatenate(out, 1))


def layer(p, names, xs, valids):
    """Of one example: both directions of the one cross-attention, then self-attention and MLP of each."""
    cross, found = p["cross_attn"], []
    for i, x in enumerate(xs):
        k, v = np.split(linear(cross["kv"], norm(cross["context_norm"], xs[1 - i])), 2, 1)
        found.append(x + attention(cross["proj"], linear(cross["q"], norm(cross["norm"], x)), k, v, valids[1 - i]))
    for i, name in enumerate(names):
        one = p["each"][name]
        q, k, v = np.split(linear(one["attn"]["qkv"], norm(one["attn"]["norm"], found[i])), 3, 1)
        found[i] = found[i] + attention(one["attn"]["proj"], q, k, v, valids[i])
        hidden = gelu(linear(one["mlp"]["fc1"], norm(one["mlp"]["norm"], found[i])))
        found[i] = found[i] + linear(one["mlp"]["fc2"], hidden)
    return found


def co_attention(p, names, xs, valids):
    """Of one example: each stream reads itself, then what the others were before, with parameters of its own."""
    found = []
    for i, (name, x) in enumerate(zip(names, xs)):
        one, cross = p["each"][name], p["each"][name]["cross_attn"]
        q, k, v = np.split(linear(one["attn"]["qkv"], norm(one["attn"]["norm"], x)), 3, 1)
        x = x + attention(one["attn"]["proj"], q, k, v, valids[i])
        k, v = np.split(linear(cross["kv"], norm(cross["context_norm"], xs[1 - i])), 2, 1)
        x = x + attention(cross["proj"], linear(cross["q"], norm(cross["norm"], x)), k, v, valids[1 - i])
        hidden = gelu(linear(one["mlp"]["fc1"], norm(one["mlp"]["norm"], x)))
        found.append(x + linear(one["mlp"]["fc2"], hidden))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("topology, layer", [("shared_cross", layer), ("co_attention", co_attention)])
def test_a_layer_equals_numpy(topology, layer):
    model, given = make(cross=dict(topology=topology)), streams()
    p = nnx.to_pure_dict(nnx.state(model.cross, nnx.Param))
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
    names = config().parts["cross"].reads
    got = model.cross(*given, asked=Asked(model, layers=True))
    for b in range(4):
        xs, valids = ([np.asarray(getattr(s, f)[b]) for s in given] for f in ("x", "valid"))
        for d in range(DEPTH):
            xs = layer(jax.tree.map(lambda x, d=d: x[d], p["blocks"]), names, xs, valids)
            for s, x in zip(got, xs):
                np.testing.assert_allclose(s.layers[b, d], x, atol=2e-5)
        for s, x, name in zip(got, xs, names):
            np.testing.assert_allclose(s.x[b], norm(p["norms"][name], x), atol=2e-5)


def test_one_cross_attention_serves_both_directions_and_each_stream_has_its_own_rest():
    paths = {jax.tree_util.keystr(k, simple=True, separator="/") for k, _ in jax.tree_util.tree_leaves_with_path(
        nnx.to_pure_dict(nnx.state(make().cross.blocks, nnx.Param)))}  # fmt: skip
    assert {p.partition("/")[0] for p in paths} == {"cross_attn", "each"}
    assert {p.split("/")[1] for p in paths if p.startswith("each")} == {"embed_text", "embed_objects"}
    found = jax.grad(lambda kernel, which: _loss(kernel, which), argnums=0)
    kernel = make().cross.blocks.cross_attn.q.kernel[...]
    a, b = found(kernel, 0), found(kernel, 1)
    assert np.abs(a).max() > 1e-4 and np.abs(b).max() > 1e-4 and np.abs(a - b).max() > 1e-4


def _loss(kernel, which):
    model = make()
    model.cross.blocks.cross_attn.q.kernel[...] = kernel
    return jnp.square(model.cross(*streams(), asked=Asked(model))[which].x).sum()


def test_nothing_is_read_of_empty_slots_nor_of_what_is_absent():
    model, given = make(), streams(empty=(1, 2))
    junk = [s._replace(x=jnp.where(s.valid[..., None], s.x, 1e3)) for s in given]
    for s, t in zip(model.cross(*given, asked=Asked(model)), model.cross(*junk, asked=Asked(model))):
        seen = np.asarray(s.valid)[..., None] & np.asarray(given[1].valid.any(1))[:, None, None]
        np.testing.assert_array_equal(np.where(seen, s.x, 0), np.where(seen, t.x, 0))
        assert np.isfinite(s.x).all()


def test_objects_are_the_mean_of_two_norms():
    model, rng = make(), np.random.default_rng(0)
    batch = {n: {"vectors": rng.normal(size=(2, 3, w)).astype(np.float32), "valid": np.ones((2, 3), bool)}
             for n, w in (("objects", 6), ("boxes", 4))}  # fmt: skip
    shown = Whole(("objects",), MODALITIES)(batch)
    shown = shown._replace(dense={n: jnp.asarray(batch[n]["vectors"]) for n in ("objects", "boxes")})
    p = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model.embed_objects, nnx.Param)))
    want = sum(norm(p["norm"][n], linear(p["linear"][n], batch[n]["vectors"]), 1e-12) for n in ("objects", "boxes")) / 2
    np.testing.assert_allclose(model.embed_objects(shown, asked=Asked(model)).x, want, atol=1e-5)


def test_heads_equal_numpy():
    model, (text, objects) = make(), streams()
    p = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    pooled = np.tanh(linear(p["pooled"]["linear"], objects.x[:, 0]))
    np.testing.assert_allclose(model.pooled(objects, asked=Asked(model)), pooled, atol=1e-5)
    hidden = p["numbers"]["hidden"]
    want = linear(p["numbers"]["linear"], norm(hidden["norm"], gelu(linear(hidden["linear"], pooled)), 1e-12))
    np.testing.assert_allclose(model.numbers(jnp.asarray(pooled), asked=Asked(model)), want, atol=1e-4)
    rng = np.random.default_rng(1)
    words = {"ids": jnp.asarray(rng.integers(20, size=(4, 5))), "chosen": jnp.asarray(rng.random((4, 5)) < 0.5)}
    logits = np.asarray(text.x[:, 1:]) @ p["embed_text"]["table"].T  # behind the class token
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.asarray(words["ids"])[..., None], -1)[..., 0]
    got = model.words(text, words, asked=Asked(model))
    np.testing.assert_allclose(got, np.where(words["chosen"], nll, 0), atol=1e-4)


def test_vectors_side_by_side_and_normalised():
    rng = np.random.default_rng(2)
    vectors = [jnp.float32(rng.normal(size=(4, n))) for n in (7, 3)]
    joined = np.concatenate(vectors, axis=1)
    for normed, want in ((False, lambda p: joined), (True, lambda p: norm(p["norm"], joined))):
        parts = PARTS | dict(
            short=dict(part="pooler", reads=["embed_text"], dim=3),
            joined=dict(part="concat", reads=["pooled", "short"], dim=10, norm=normed),
        )
        made = from_dict(network.Config, dict(parts=parts, dtype="float32"), "config.model")
        model = network.Network(made, MODALITIES, (), nnx.Rngs(0))
        if normed:
            model.joined.norm.scale[...] = jnp.float32(rng.normal(size=10))
        p = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model.joined, nnx.Param)))
        np.testing.assert_allclose(model.joined(*vectors, asked=Asked(model)), want(p), atol=1e-5)
    for key, value, error in (
        ("reads", ["cross", "pooled"], "'joined': reads=.*: 'cross' is no part that gives a vector"),
        ("dim", 9, "'joined': dim=9: the vectors that it reads have 10 numbers together"),
    ):
        wrong = parts | dict(joined=parts["joined"] | {key: value})
        with pytest.raises(ValueError, match=error):
            network.Network(from_dict(network.Config, dict(parts=wrong), "config.model"), MODALITIES, (), nnx.Rngs(0))


# -- What a network says of it ---------------------------------------------------------------------------------------


def test_the_nodes_of_fused_streams_and_that_none_is_of_one_modality_alone():
    states = network.describe(config().compose(MODALITIES, ()), MODALITIES)
    text, objects = Leaf(Whole(("text",), MODALITIES)), Leaf(Whole(("objects",), MODALITIES))
    node = states.over("pooled", dict(text=text, objects=objects))
    both = call("cross", call("embed_text", text), call("embed_objects", objects))
    assert node == call("pooled", call("crossed", both)) and states.pooled_modalities == ()
    assert set(states.read_by("pooled")) == {"text", "objects", "boxes"}


def test_parts_may_stand_in_any_order():
    made = config().parts
    names = list(network.in_order(made))
    assert names == list(network.in_order(dict(reversed(made.items()))))
    assert all(names.index(r) < names.index(n) for n, c in made.items() for r in c.reads if r in made)
    loop = {
        "a": dataclasses.replace(made["pooled"], reads=("b",)),
        "b": dataclasses.replace(made["pooled"], reads=("a",)),
    }
    with pytest.raises(ValueError, match=r"a, b read each other in a circle"):
        network.in_order(loop)


JOINT = '''
from flax import nnx
import jax.numpy as jnp
from pretrain.models.blocks import ENCODER
from pretrain.models.blocks.base import Block, Given
from pretrain.models.layers import Seen


class Fusion(nnx.Module):
    """One transformer over all tokens."""

    def __init__(self, config, names, *, rngs):
        self.block = Block(config, ENCODER, rngs=rngs)

    def __call__(self, xs, given):
        mask = jnp.concatenate([seen.mask for seen in given.seen], -1)
        x, aux = self.block(jnp.concatenate(xs, 1), Given(Seen(mask)))
        return tuple(jnp.split(x, [xs[0].shape[1]], 1)), aux
'''


def test_a_new_topology_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "joint_here.py").write_text(JOINT)
    monkeypatch.setattr(blocks, "__path__", [*blocks.__path__, str(tmp_path)])
    discover.files.cache_clear()
    try:
        model = make(cross=dict(topology="joint_here"))
    finally:
        discover.files.cache_clear()
    found = model.cross(*streams(), asked=Asked(model))
    assert [s.x.shape for s in found] == [(4, 6, DIM), (4, 3, DIM)]


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(cross=dict(topology="crossed")), "'cross': topology='crossed': there is no .*; there are: co_att"),
        (dict(cross=dict(reads=["embed_text"])), r"'cross': reads=.*: name two parts or more"),
        (dict(cross=dict(dim=16), crossed=dict(dim=16)), "'cross': dim=16: 'embed_text', which it reads, must give"),
        (dict(cross=dict(causal=True)), "'cross': causal=True: an encoder has it"),
        (dict(crossed=dict(of="vision")), "'crossed': of='vision': 'cross' reads embed_text, embed_objects: name one"),
        (dict(crossed=dict(reads=["embed_text"])), r"'crossed': reads=.*: it takes a stream of several"),
        (dict(crossed=dict(dim=4)), "'crossed': dim=4: 'cross' gives tokens of width 8"),
        (dict(embed_objects=dict(reads=["objects"])), r"'embed_objects': reads=.*: name features and boxes"),
        (dict(words=dict(table="embed_objects")), "'words': table='embed_objects': name the part that embeds the text"),
        (dict(words=dict(reads=["pooled"])), "'words': table='embed_text': its rows are not of the width"),
        (dict(numbers=dict(hidden=-1)), "'numbers': hidden=-1: must not be negative"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(changes, error):
    with pytest.raises(ValueError, match=f"model.parts: {error}"):
        make(**changes)
