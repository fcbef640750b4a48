"""Grids step by step: replayed by hand, guided, with registers, and one after another in a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from jax.sharding import NamedSharding
from tiny import MODALITIES

from data_pipeline.spec import Modality
from pretrain.generate.chain import Generator, Target
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Shown, TokenSet, Whole, concat, whole
from pretrain.sharding import batch_sharding, make_mesh, parse_mesh

DATA = tiny.batch(3, missing=0.0)
AT = jnp.broadcast_to(jnp.arange(16), (3, 16))


def generator(**config):
    graph, params = nnx.split(tiny.model(noise=0.5, seed=2, **config))  # so that arg-maxima differ from place to place
    return Generator(graph, params, MODALITIES)


@pytest.fixture(scope="module")
def made():
    return generator()


def ids_of(made, target, given=("depth",), data=DATA, **more):
    return np.asarray(made(data, given, [target], **more)[target.name]["ids"])


def forward(made, given=("depth",), ids=None, known=None, where=AT, shown=None):
    """Logits of image positions given modalities and known tokens of its own."""
    model = nnx.merge(made.graph, made.params)
    sets = [whole(DATA, name, MODALITIES) for name in given]
    if ids is not None:
        sets.append(TokenSet(ids, 0 * AT, AT, known))
    if not sets:
        sets = [TokenSet(0 * AT, 0 * AT, AT, AT < 0)]
    open_ = jnp.ones_like(where, bool) if known is None else shown
    return predict(model, concat(sets), TokenSet(0 * where, 0 * where, where, open_))


@jax.jit
def predict(network, seen, queries):
    model = Predictor(network)
    return model.logits(model.decode(model.encode(Shown(seen, {})), queries).x, "image")


@pytest.mark.parametrize("method", ["roar", "maskgit"])
@pytest.mark.parametrize("registers", [0, 2])
def test_one_step_at_temperature_zero_is_the_arg_max_of_one_pass(method, registers):
    """With register tokens as well, which the reference cannot sample with."""
    made = generator(registers=registers)
    got = ids_of(made, Target("image", method=method, steps=1, temperature=0.0))
    np.testing.assert_array_equal(got, forward(made).argmax(-1))
    assert len(np.unique(got)) > 1


@pytest.mark.slow
def test_vectors_and_pixels_are_conditions_too():
    vectors = Modality("vectors", "vectors", (4, 6), "vectors", targets=False)
    pixels = Modality("rgb", "pixels", (8, 8, 3), "rgb", patch=4, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False)
    modalities = (*MODALITIES, vectors, pixels)
    graph, params = nnx.split(tiny.model(noise=0.5, modalities=modalities))
    data = tiny.batch(3, missing=0.0, modalities=modalities)
    for given in (["vectors"], ["rgb", "depth"]):
        model, shown = Predictor(nnx.merge(graph, params)), Whole(tuple(given), modalities)(data)
        y = model.decode(model.encode(shown), TokenSet(0 * AT, 0 * AT, AT, AT >= 0)).x
        got = Generator(graph, params, modalities)(data, given, [Target("image", steps=1, temperature=0.0)])
        np.testing.assert_array_equal(got["image"]["ids"], model.logits(y, "image").argmax(-1))


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_maskgit_commits_the_surest_also_at_temperature_zero(made, noise):
    """The reference calls every token equally sure there, and commits them in no order. Noise fades by the step."""
    target = Target("image", method="maskgit", steps=4, temperature=0.0, schedule="linear", noise=noise)
    got = ids_of(made, target)
    ids, known = np.zeros((3, 16), np.int32), np.zeros((3, 16), bool)
    base = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)  # seed, sample, modality
    for step, share in enumerate((1, 0.75, 0.5, 0.25)):
        log_p = np.asarray(jax.nn.log_softmax(forward(made, ids=ids, known=jnp.asarray(known), shown=~known)))
        sure = np.where(known, -np.inf, log_p.max(-1))
        for b, row in enumerate(DATA["row"]):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(base, row), step + 1), 1)
            sure[b] += noise * share * np.asarray(jax.random.gumbel(key, (16,)))
        for b, best in enumerate(np.argsort(-sure, axis=1)[:, :4]):
            ids[b, best], known[b, best] = log_p[b, best].argmax(-1), True
    np.testing.assert_array_equal(got, ids)
    assert (got != forward(made).argmax(-1)).any(), "later steps saw what was committed"


def test_roar_commits_each_place_once_given_those_before(made):
    """Every token of a step is the arg-max given some set of earlier ones: the order is read off the key."""
    target = Target("image", steps=4, temperature=0.0, schedule="linear")
    got = ids_of(made, target, seed=3)
    base = jax.random.fold_in(jax.random.key(3), 0)
    ids, known = np.zeros((3, 16), np.int32), np.zeros((3, 16), bool)
    keys = [jax.random.fold_in(jax.random.fold_in(base, 0), r) for r in range(3)]
    order = np.stack([np.argsort(jax.random.uniform(jax.random.fold_in(k, 0), (16,))) for k in keys])
    for step in range(4):
        now = order[:, 4 * step : 4 * step + 4]
        logits = forward(made, ids=ids, known=jnp.asarray(known), where=jnp.asarray(now), shown=jnp.ones((3, 4), bool))
        for b in range(3):
            ids[b, now[b]], known[b, now[b]] = np.asarray(logits[b].argmax(-1)), True
    np.testing.assert_array_equal(got, ids)


@pytest.mark.parametrize("method", ["roar", "maskgit"])
def test_the_same_seed_gives_an_example_the_same_in_any_batch(made, method):
    target = Target("image", method=method, steps=3)
    alone = jax.tree.map(lambda x: x[1:2], DATA)
    first = ids_of(made, target)
    np.testing.assert_array_equal(first, ids_of(made, target))
    np.testing.assert_array_equal(first[1:2], ids_of(made, target, data=alone))
    assert (first != ids_of(made, target, seed=1)).any() and (first != ids_of(made, target, sample=1)).any()
    assert first.min() >= 0 and first.max() < 20


@pytest.mark.parametrize("method", ["roar", "maskgit"])
def test_what_is_known_stays_and_the_rest_is_made(made, method):
    target = Target("image", method=method, steps=4)
    known = np.random.default_rng(0).random((3, 16)) < np.asarray([[0.1], [0.5], [1.1]])  # the last lacks nothing
    half = tiny.only(DATA, image={"ids": DATA["image"]["ids"], "valid": known})
    got = ids_of(made, target, ("depth", "image"), half)
    np.testing.assert_array_equal(got[known], DATA["image"]["ids"][known])
    hidden = tiny.only(half, image={"ids": np.where(known, DATA["image"]["ids"], 7), "valid": known})
    np.testing.assert_array_equal(got, ids_of(made, target, ("depth", "image"), hidden))
    assert (got != ids_of(made, target))[~known].any(), "what is known is seen"


def guided(made, scales, given=("depth", "caption"), **more):
    return ids_of(made, Target("image", steps=1, temperature=0.0, guidance=scales, **more), given)


def test_guidance_of_one_is_none_and_of_zero_is_unconditional(made):
    both = ("depth", "caption")
    np.testing.assert_array_equal(guided(made, 1.0), forward(made, both).argmax(-1))
    np.testing.assert_array_equal(guided(made, 0.0), forward(made, ()).argmax(-1))
    for method in ("roar", "maskgit"):  # several sampled steps as well
        args = dict(method=method, steps=4, temperature=1.0)
        plain = ids_of(made, Target("image", **args), both)
        np.testing.assert_array_equal(plain, ids_of(made, Target("image", guidance=1.0, **args), both))
        np.testing.assert_array_equal(
            ids_of(made, Target("image", guidance=0.0, **args), both), ids_of(made, Target("image", **args), ())
        )


@pytest.mark.parametrize("w", [3.0, -1.0])
def test_guidance_by_all_is_the_formula(made, w):
    none, all_ = forward(made, ()), forward(made, ("depth", "caption"))
    np.testing.assert_array_equal(guided(made, w), (none + w * (all_ - none)).argmax(-1))


def test_guidance_by_several_and_what_is_always_seen(made):
    always = forward(made, ("label",))
    parts = [forward(made, ("label", n)) for n in ("depth", "caption")]
    wanted = always + 2.0 * (parts[0] - always) - 0.5 * (parts[1] - always)
    got = guided(made, {"depth": 2.0, "caption": -0.5}, ("depth", "caption", "label"))
    np.testing.assert_array_equal(got, wanted.argmax(-1))


def test_a_chain_is_its_targets_one_after_another(made):
    """Each sees what was made before it, and no two draws share their randomness."""
    chain = [Target("depth", steps=2), Target("caption", temperature=1.0), Target("image", steps=4)]
    out = made(DATA, ["label"], chain, seed=5)
    assert list(out) == ["depth", "caption", "image"]
    known = tiny.only(DATA, **{n: jax.tree.map(np.asarray, out[n]) for n in ("depth", "caption")})
    again = made(known, ["label", "depth", "caption"], chain[2:], seed=5)
    np.testing.assert_array_equal(out["image"]["ids"], again["image"]["ids"])
    assert (np.asarray(out["image"]["ids"]) != ids_of(made, chain[2], ("label",), seed=5)).any()


def test_eight_devices_sample_what_one_does(made):
    data, target = tiny.batch(8, missing=0.0), Target("image", steps=4, guidance=2.0)
    one = ids_of(made, target, ("depth", "caption"), data)
    mesh = make_mesh(parse_mesh("fsdp"))
    with jax.set_mesh(mesh):
        spread = jax.device_put(data, batch_sharding(mesh))
        params = jax.device_put(made.params, NamedSharding(mesh, jax.P()))
        eight = Generator(made.graph, params, MODALITIES)(spread, ("depth", "caption"), [target])["image"]["ids"]
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_array_equal(one, eight)


@pytest.mark.parametrize(
    "given, targets, message",
    [
        (["depth"], [Target("smell")], "no modality 'smell': the model has image, depth, caption, label"),
        (["smell"], [Target("image")], "no modality 'smell'"),
        (["caption"], [Target("caption")], "'caption': is there already; a sequence is written whole"),
        (["depth"], [Target("image"), Target("image")], "'image': is there already"),
        (["depth"], [Target("image", guidance={"caption": 2.0})], "guidance by 'caption', which is neither given"),
    ],
)
def test_what_cannot_be_made_is_said(made, given, targets, message):
    with pytest.raises(ValueError, match=message):
        made(DATA, given, targets)


def test_what_no_target_is():
    with pytest.raises(ValueError, match="target 'image': method='magic': must be one of roar, maskgit"):
        Target("image", method="magic")
    with pytest.raises(ValueError, match="target 'image': steps=0"):
        Target("image", steps=0)
