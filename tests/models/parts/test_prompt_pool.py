"""Soft prompts in the place of what lacks, against an independent NumPy writing: tokens, gradients, who gets them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.frozen import from_dict
from pretrain.models import network
from pretrain.models.passes import Asked, Leaf, call, compute
from pretrain.models.stream import NO_MODALITY
from pretrain.models.tokens import Whole
from pretrain.parameters import Roles

DIM, TEXT, PATCHES, ENTRIES, END = 8, 6, 4, 7, 3
MODALITIES = (
    Modality("text", "sequence", (TEXT,), "text", "t", 20, tokenizer="none"),
    Modality("photo", "pixels", (8, 8, 3), "photo", patch=4, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False),
)
PARTS = dict(
    text_embed=dict(part="embed_one", reads=["text"], dim=DIM, cls=True, norm=True),
    photo_embed=dict(part="embed_one", reads=["photo"], dim=DIM, cls=True),
    text_fill=dict(
        part="prompt_pool", reads=["text_embed", "photo_embed"], dim=DIM, tokens=4, entries=ENTRIES, end=END
    ),
    photo_fill=dict(part="prompt_pool", reads=["photo_embed", "text_embed"], dim=DIM, tokens=3, entries=ENTRIES),
)
OTHER = dict(text="photo", photo="text")


def make(seed=0, fill=(), **changes):
    """A network whose parameters are not small; fill: settings of both pools."""
    parts = {n: p | (dict(fill) if n.endswith("fill") else {}) | changes.get(n, {}) for n, p in PARTS.items()}
    parts = {n: {key: value for key, value in p.items() if value is not None} for n, p in parts.items()}
    config = from_dict(network.Config, dict(parts=parts, dtype="float32"), "config.model")
    return tiny.perturbed(network.Network(config, MODALITIES, (), nnx.Rngs(seed)), seed, 0.3)


def batch(text=(True,) * 6, photo=(True,) * 6, seed=0):
    """Texts of several lengths and pictures, of those that have them."""
    rng, text, photo = np.random.default_rng(seed), np.asarray(text, bool), np.asarray(photo, bool)
    valid = (np.arange(TEXT) < rng.integers(2, TEXT + 1, (len(text), 1))) & text[:, None]
    ids = np.where(valid, rng.integers(4, 20, valid.shape), 0).astype(np.int16)
    pixels = rng.integers(256, size=(len(text), 8, 8, 3), dtype=np.uint8)
    return {
        "row": np.arange(len(text)),
        "text": {"ids": ids, "valid": valid},
        "photo": {"pixels": pixels, "valid": photo},
    }


SOME = dict(text=(1, 0, 0, 1, 1, 0), photo=(1, 1, 1, 0, 1, 0))  # which examples have it; the last has neither


def streams(model, data):
    leaves = {m.name: Leaf(Whole((m.name,), MODALITIES)) for m in MODALITIES}
    return {n: compute(model, {0: call(f"{n}_embed", leaf)}, data)[0] for n, leaf in leaves.items()}


def filled(model, name, data):
    found = streams(model, data)
    return getattr(model, f"{name}_fill")(found[name], found[OTHER[name]], asked=Asked(model))


def wrapped(model, name, rows):
    """In NumPy: x of the slots of one example without a token of its own, and how many of them are seen."""
    part = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(getattr(model, f"{name}_embed"), nnx.Param)))
    norm = lambda x: x
    if "norm" in part:
        scale, bias = part["norm"]["scale"], part["norm"]["bias"]
        norm = lambda x: (x - x.mean()) / np.sqrt(x.var() + 1e-6) * scale + bias
    x = [norm(part["cls"] + part["positions"][0]), *rows]
    if name == "text" and len(rows):  # the end token stands where it would in a text
        x.append(norm(part["table"][END] + part["positions"][1 + len(rows)]))
    return np.stack(x)


def chosen(model, name, stream, b, k):
    """In NumPy: the pool's rows for one example of what is there, the most like its mean first."""
    counted = np.asarray(stream.valid[b]) & (np.asarray(stream.modality[b]) != NO_MODALITY)
    query = np.asarray(stream.x[b], np.float64)[counted].mean(0)
    prompts = np.asarray(getattr(model, f"{name}_fill").prompts[...], np.float64)
    return sorted(range(len(prompts)), key=lambda i: -(prompts[i] * query).sum())[:k]


@pytest.mark.parametrize("how", ["pool", "static", "zeros", "drop"])
@pytest.mark.parametrize("name, k", [("text", 4), ("photo", 3)])
def test_who_lacks_a_modality_gets_pseudo_tokens_and_nobody_else(name, k, how):
    model, data = make(fill=dict(how=how)), batch(**SOME)
    found, got = streams(model, data), filled(model, name, data)
    for b in range(6):
        if SOME[name][b] or not SOME[OTHER[name]][b]:
            jax.tree.map(lambda a, w, b=b: np.testing.assert_array_equal(a[b], w[b]), got, found[name])
            continue
        rows = np.zeros((0 if how == "drop" else k, DIM))
        if how in ("pool", "static"):
            rows = np.asarray(getattr(model, f"{name}_fill").prompts[...])
        if how == "pool":
            rows = rows[chosen(model, name, found[OTHER[name]], b, k)]
        want = wrapped(model, name, rows)
        np.testing.assert_array_equal(got.valid[b], np.arange(got.x.shape[1]) < len(want))
        np.testing.assert_allclose(got.x[b, : len(want)], want, atol=2e-6)
        assert (np.asarray(got.modality[b, : len(want)]) == NO_MODALITY).all(), "they stand for no modality"
        assert not np.asarray(got.counted[b]).any()


def test_examples_take_different_rows_and_different_ones_by_what_they_have():
    model, found = make(), streams(make(), batch(seed=4))
    taken = np.asarray(model.text_fill.choose([found["photo"]]))
    assert taken.shape == (6, 4) and len({tuple(sorted(row)) for row in taken.tolist()}) > 1
    assert all(len(set(row)) == 4 for row in taken.tolist())
    again = np.asarray(model.photo_fill.choose([found["text"]]))
    assert again.tolist() == [chosen(model, "photo", found["text"], b, 3) for b in range(6)]


def gradients(model, data, upstream):
    """Of ⟨upstream, filled text⟩ by the pool and by the pictures' embedding."""
    graph, params = nnx.split(model, nnx.Param)

    def loss(params):
        return (filled(nnx.merge(graph, params), "text", data).x * upstream).sum()

    return nnx.to_pure_dict(jax.grad(loss)(params))


def test_gradient_passes_the_rows_that_are_taken_and_not_the_selection():
    """The pool's is, in NumPy, the upstream of every place that a row stands in; trap: the release has none."""
    model, data = make(), batch(**SOME)
    upstream = np.random.default_rng(1).normal(size=(6, TEXT + 1, DIM)).astype(np.float32)
    grads, photo, want = gradients(model, data, upstream), streams(model, data)["photo"], np.zeros((ENTRIES, DIM))
    for b in np.flatnonzero(np.less(SOME["text"], SOME["photo"])):
        for place, row in enumerate(chosen(model, "text", photo, b, 4)):
            want[row] += upstream[b, 1 + place]
    np.testing.assert_allclose(grads["text_fill"]["prompts"], want, atol=1e-5)
    assert np.abs(want).max() > 0.5 and not all(np.abs(g).max() for g in want), "and rows that nobody takes stay"
    assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(grads["photo_embed"])), "the query has none"


@pytest.mark.parametrize("how", ["pool", "static"])
def test_a_frozen_pool_fills_the_same_and_has_no_gradient(how):
    data, upstream = batch(**SOME), np.ones((6, TEXT + 1, DIM), np.float32)
    learns, frozen = make(fill=dict(how=how)), make(fill=dict(how=how, learn=False))
    for a, b in zip(filled(learns, "text", data), filled(frozen, "text", data)):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert np.abs(gradients(learns, data, upstream)["text_fill"]["prompts"]).max() > 0
    assert np.abs(gradients(frozen, data, upstream)["text_fill"]["prompts"]).max() == 0
    params = nnx.to_pure_dict(nnx.state(frozen, nnx.Param), extract_fn=lambda variable: variable)
    assert Roles(params).still == {"text_fill/prompts", "photo_fill/prompts"}, "nor does weight decay draw at it"


def test_nothing_is_read_of_the_slots_of_what_lacks():
    """Whatever a batch holds there, of a text or of a picture."""
    model, data = make(), batch(**SOME)
    junk = jax.tree.map(np.copy, data)
    junk["text"]["ids"][~data["text"]["valid"]] = 9
    junk["photo"]["pixels"][~data["photo"]["valid"]] = 7
    for name in ("text", "photo"):
        a, b = filled(model, name, data), filled(model, name, junk)
        seen = np.asarray(a.valid)[..., None]
        np.testing.assert_array_equal(np.where(seen, a.x, 0), np.where(seen, b.x, 0))
        np.testing.assert_array_equal(a.valid, b.valid)


def test_one_modality_alone_is_filled_as_where_the_other_lacks():
    """`States.alone` gives the pool what is there; the same as a batch in which all lack the other."""
    model, data = make(), batch(text=[False] * 6)
    leaf = Leaf(Whole(("photo",), MODALITIES))
    node = model.states.alone("text_fill", "photo", leaf)
    assert node == call("text_fill", call("photo_embed", leaf), given=("photo_embed",))
    assert model.states.alone("photo_fill", "photo", leaf).args == (call("photo_embed", leaf),)
    alone, beside = compute(model, {0: node}, data)[0], filled(model, "text", data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), alone, beside)
    own = compute(model, {0: model.states.alone("photo_fill", "photo", leaf)}, data)[0]
    jax.tree.map(np.testing.assert_array_equal, own, streams(model, data)["photo"])


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(fill=dict(how="pools")), "'photo_fill': how='pools': must be one of pool, static, zeros, drop"),
        (dict(text_fill=dict(reads=["text_embed"])), "'text_fill': reads=.*: name the embedding of what may lack"),
        (dict(text_fill=dict(tokens=6)), "'text_fill': tokens=6: must be 1 … 5, the tokens of 'text' without its end"),
        (dict(text_fill=dict(tokens=0)), "'text_fill': tokens=0: must be 1 … 5"),
        (dict(photo_fill=dict(tokens=5)), "'photo_fill': tokens=5: must be 1 … 4, the tokens of 'photo'"),
        (dict(text_fill=dict(entries=3)), "'text_fill': entries=3: must be at least tokens=4"),
        (dict(text_fill=dict(end=20)), "'text_fill': end=20: 'text' has no such token; -1 is none"),
        (dict(photo_fill=dict(end=3)), "'photo_fill': end=3: 'photo' has no such token"),
        (dict(text_fill=dict(dim=16)), "'text_fill': dim=16: 'text_embed', which it reads, must give a stream of this"),
        (dict(photo_embed=dict(dim=16)), "'photo_fill': dim=8: 'photo_embed', which it reads, must give a stream"),
        (dict(text_embed=dict(pad_id=0)), "'text_fill': reads=.*: 'text_embed' embeds padding, so that nothing ever"),
        (dict(text_embed=dict(part="embed", cls=None, norm=None)), "'text_fill': .*'text_embed' must embed one mod"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(changes, error):
    with pytest.raises(ValueError, match=f"model.parts: {error}"):
        make(**changes)


def test_a_static_prompt_has_as_many_rows_as_tokens():
    assert make(fill=dict(how="static")).text_fill.prompts.shape == (4, DIM)
    assert make().text_fill.prompts.shape == (ENTRIES, DIM)
    assert make(fill=dict(how="zeros")).text_fill.prompts is None
    assert jnp.abs(make().text_fill.prompts[...]).max() > 0
