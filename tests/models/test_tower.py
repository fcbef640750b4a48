"""Towers: what each pooling takes, who sees whom, thinned pictures, frozen and loaded towers, and bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_pipeline.spec import Modality
from pretrain import optim
from pretrain.initialize import Origin, resize_grid, start
from pretrain.models import encdec, multimodal, tower
from pretrain.models.tokens import TokenSet, dense_rows, whole
from pretrain.parameters import Roles, variables

HALF = (0.5, 0.5, 0.5)
PHOTO = Modality("photo", "pixels", (8, 8, 3), "photo", patch=4, mean=HALF, std=HALF, targets=False)
TEXT = Modality("text", "sequence", (6,), "text", "text", 30, tokenizer="text")
SOUND = Modality("sound", "vectors", (1, 8), "sound", targets=False)
GRID = Modality("grid", "grid", (2, 2), "grid", "grid", 9, tokenizer="fsq")
ALL = (PHOTO, TEXT, SOUND, GRID)
RNG = np.random.default_rng(0)


def batch(size=3):
    lengths = np.arange(size) % 4 + 2
    return {
        "photo": {"pixels": RNG.integers(256, size=(size, 8, 8, 3), dtype=np.uint8), "valid": np.ones(size, bool)},
        "text": {"ids": RNG.integers(4, 30, size=(size, 6)), "valid": np.arange(6) < lengths[:, None]},
        "sound": {"vectors": RNG.normal(size=(size, 1, 8)).astype(np.float32), "valid": np.ones((size, 1), bool)},
        "grid": {"ids": RNG.integers(9, size=(size, 4)), "valid": np.ones((size, 4), bool)},
    }


def make(reads, spec, embed_dim=5, **changes):
    values = dict(name="t", modalities=(reads,), dim=8, heads=2, depth=2, mlp_ratio=2.0) | changes
    made = tower.Tower(tower.Config(**values), spec, embed_dim, dtype=jnp.float32, rngs=nnx.Rngs(0))
    graph, params = nnx.split(made)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return nnx.merge(
        graph, jax.tree.unflatten(tree, [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)])
    )


def run(made, data, name):
    @jax.jit
    def encode(data):
        tokens = whole(data, name, ALL)
        return made.encode(tokens, dense_rows(data, [m for m in ALL if m.name == name]).get(name))

    x, valid, _ = encode({name: data[name]})
    pooled = jax.jit(made.pool)(x, valid)  # apart: else XLA may compute x once for each use, and round differently
    return jax.device_get((x, valid, pooled))


def test_each_pooling_takes_what_it_says():
    data = batch()
    x, valid, pooled = run(make("text", TEXT, pool="mean"), data, "text")
    np.testing.assert_allclose(pooled, [r[v].mean(0) for r, v in zip(x, valid)], atol=1e-6)
    x, valid, pooled = run(make("text", TEXT, pool="last", causal=True), data, "text")
    np.testing.assert_array_equal(pooled, [r[v.sum() - 1] for r, v in zip(x, valid)])
    x, valid, pooled = run(make("photo", PHOTO, pool="cls"), data, "photo")
    assert x.shape == (3, 5, 8) and valid.all()
    np.testing.assert_array_equal(pooled, x[:, 0])
    made = make("text", TEXT, pool="ggem")
    x, valid, pooled = run(made, data, "text")
    p = np.repeat(np.asarray(made.head.p[...], np.float64), 4)
    want = [np.mean(np.maximum(r[v], 1e-6) ** p, 0) ** (1 / p) for r, v in zip(x.astype(np.float64), valid)]
    np.testing.assert_allclose(pooled, want, rtol=1e-4, atol=1e-6)
    made = make("text", TEXT, pool="map")
    x, valid, pooled = run(made, data, "text")
    assert np.abs(pooled - run(make("text", TEXT, pool="mean"), data, "text")[2]).max() > 0.1
    np.testing.assert_allclose(made.pool(x + 9.0 * ~valid[..., None], valid), pooled, atol=1e-5)


def test_generalized_mean_is_the_mean_at_1_and_nearly_the_maximum_at_50():
    x, valid = jnp.abs(jax.random.normal(jax.random.key(0), (2, 5, 4))), jnp.asarray([[1, 1, 1, 0, 0], [0] * 5], bool)
    pool = tower.GroupGeneralizedMean(2)
    pool.p[...] = jnp.asarray([1.0, 50.0])
    y = pool(x, valid)
    np.testing.assert_allclose(y[0, :2], x[0, :3, :2].mean(0), rtol=1e-5)
    np.testing.assert_allclose(y[0, 2:], x[0, :3, 2:].max(0), rtol=0.03)
    assert not y[1].any() and not np.isnan(jax.grad(lambda x: pool(x, valid).sum())(x)).any()


@pytest.mark.parametrize("causal", [False, True])
def test_a_causal_tower_sees_its_past_only_and_nobody_sees_padding(causal):
    made, data = make("text", TEXT, pool="last", causal=causal), batch()
    before, valid, _ = run(made, data, "text")
    ids = data["text"]["ids"].copy()
    ids[~data["text"]["valid"]] = 7
    padded, _, _ = run(made, data | {"text": data["text"] | {"ids": ids}}, "text")
    np.testing.assert_array_equal(padded[valid], before[valid])
    ids[:, 1] = ids[:, 1] % 26 + 4
    changed, _, _ = run(made, data | {"text": data["text"] | {"ids": ids}}, "text")
    assert np.allclose(changed[:, 0], before[:, 0], atol=1e-6) == causal
    assert not np.allclose(changed[:, 1], before[:, 1], atol=1e-3)


def test_a_tower_with_a_pad_id_sees_padding_as_that_token():
    made, data = make("text", TEXT, pool="last", pad_id=1), batch()
    ids = np.where(data["text"]["valid"], data["text"]["ids"], 1)
    full = {"ids": ids, "valid": np.ones_like(data["text"]["valid"])}
    plain = make("text", TEXT, pool="last")
    np.testing.assert_allclose(run(made, data, "text")[2], run(plain, data | {"text": full}, "text")[2], atol=1e-6)


def test_a_thinned_picture_keeps_the_places_of_its_patches():
    """Without attention between tokens, some patches alone give what they give among all."""
    made, data = make("photo", PHOTO, depth=1), batch()
    rows = dense_rows(data, [PHOTO])["photo"]
    all_of_it = whole(data, "photo", ALL)
    some = TokenSet(*(field[:, jnp.asarray([1, 3])] for field in all_of_it))
    made.blocks.attn.proj.kernel[...] *= 0.0
    np.testing.assert_allclose(made.encode(some, rows)[0], made.encode(all_of_it, rows)[0][:, [1, 3]], atol=1e-5)


def model(trunk=True, **changes):
    towers = (
        tower.Config("image", ("photo",), dim=8, heads=2, depth=3, **changes),
        tower.Config("words", ("text",), dim=8, heads=2, depth=1, pool="last", causal=True),
        tower.Config("sound", ("sound",), dim=8, heads=1, depth=0),
    )
    small = encdec.Config(dim=8, heads=2, encoder_depth=1, decoder_depth=1, embed_dim=5, dtype="float32")
    config = multimodal.Config(towers, embed_dim=5, trunk=small if trunk else None, dtype="float32")
    names = ("photo", "text", "sound", "grid") if trunk else ("photo", "text", "sound")
    return multimodal.Model(config, ALL, names, nnx.Rngs(0)), config


def test_towers_and_trunk_embed_into_one_space():
    made, _ = model()
    data = batch()
    tokens, dense = {m.name: whole(data, m.name, ALL) for m in ALL}, dense_rows(data, ALL)
    z = made.embed(tokens, dense)
    early = made.embed(tokens, dense, early=jnp.float32(0.0))
    for name in tokens:
        assert z[name].shape == (3, 5)
        np.testing.assert_allclose(np.linalg.norm(z[name], axis=1), 1, atol=1e-4)
        np.testing.assert_allclose(early[name][0], z[name], atol=1e-6)
        own = {name: dense[name]} if name in dense else {}
        np.testing.assert_allclose(made.pooled(tokens[name], own, name)[1], z[name], atol=1e-5)
    assert np.abs(early["photo"][1] - z["photo"]).max() > 1e-3
    np.testing.assert_allclose(early["sound"][1], z["sound"])
    assert made.encode(tokens["grid"], {}).x.shape == (3, 4, 8)


def test_a_frozen_tower_learns_nothing_but_its_projection():
    made, _ = model(frozen=True)
    graph, state = nnx.split(made)
    params, data = {"model": nnx.to_pure_dict(state)}, batch()

    def loss(p):
        m = nnx.merge(graph, p["model"])
        return m.embed({"photo": whole(data, "photo", ALL)}, dense_rows(data, [PHOTO]))["photo"][0, 0]

    grads = jax.grad(loss)(params)
    towers = grads["model"]["towers"]["image"]
    assert towers["project"]["kernel"].any() and not any(x.any() for x in jax.tree.leaves(towers["blocks"]))
    roles = roles_of(made)
    chain = optim.make_optimizer(optim.Config(lr=0.1, weight_decay=0.5), params, 10, roles)
    updates, _ = chain.update(jax.tree.map(jnp.ones_like, params), chain.init(params), params)
    images = updates["model"]["towers"].pop("image")
    assert images.pop("project")["kernel"].any() and not any(x.any() for x in jax.tree.leaves(images))
    assert all(x.any() for x in jax.tree.leaves(updates))
    rule = optim.Config(rules=(optim.Rule("towers/image", 0.5),))
    with pytest.raises(ValueError, match=r"trains model/towers/image/.*, which the model freezes; set frozen=False"):
        optim.make_optimizer(rule, params, 10, roles)


def roles_of(made):
    return Roles({"model": variables(made), "objective": {}})


class Held:
    """What `restore` gives, as far as `start` looks at it."""

    def __init__(self, params, roles=None):
        self.params, self.roles = {"model": params}, roles


def test_a_tower_starts_from_another_models():
    old, new = (nnx.to_pure_dict(nnx.split(model()[0])[1]) for _ in range(2))
    roles = roles_of(model()[0])
    old["towers"]["image"] = jax.tree.map(lambda x: x + 1.0, old["towers"]["image"])
    old["towers"]["image"]["positions"] = jnp.arange(9 * 8.0).reshape(9, 8)
    params, report = start(Origin(None, {"image": Held(old)}), {"model": new, "objective": {}}, roles)
    got = params["model"]["towers"]
    np.testing.assert_array_equal(
        got["image"]["blocks"]["mlp"]["fc1"]["kernel"], old["towers"]["image"]["blocks"]["mlp"]["fc1"]["kernel"]
    )
    np.testing.assert_array_equal(got["image"]["positions"], resize_grid(np.arange(72.0).reshape(9, 8), 4))
    np.testing.assert_array_equal(got["words"]["table"], new["towers"]["words"]["table"])
    assert f"tower image: {len(jax.tree.leaves(new['towers']['image']))} arrays of parameters loaded, 0 new" in report
    old["towers"]["image"]["project"]["kernel"] = jnp.zeros((8, 7))  # a tower of another embedding space
    params, report = start(Origin(None, {"image": Held(old)}), {"model": new, "objective": {}}, roles)
    got, want = params["model"]["towers"]["image"]["project"], new["towers"]["image"]["project"]
    np.testing.assert_array_equal(got["kernel"], want["kernel"])
    assert "1 new" in report
    old["towers"]["words"]["positions"] = jnp.zeros((4, 8))  # as many as a square grid has, but of a text
    new["towers"]["words"]["positions"] = jnp.zeros((9, 8))
    with pytest.raises(ValueError, match=r"positions has shape \(4, 8\) there and \(9, 8\) here"):
        start(Origin(None, {"words": Held(old)}), {"model": new, "objective": {}}, roles)
    del old["towers"]["image"]["norm"]
    with pytest.raises(ValueError, match=r"the two differ in \['norm/bias', 'norm/scale'\]; give this tower the sett"):
        start(Origin(None, {"image": Held(old)}), {"model": new, "objective": {}}, roles)
    with pytest.raises(ValueError, match="'image': load: that workdir has no such tower"):
        start(Origin(None, {"image": Held({"encoder": {}})}), {"model": new, "objective": {}}, roles)


def test_a_frozen_tower_that_nothing_gives_is_refused():
    made, _ = model(frozen=True)
    new, roles = nnx.to_pure_dict(nnx.split(made)[1]), roles_of(made)
    old = {k: v for k, v in new.items() if k != "towers"}
    held = Held(old, roles)
    fresh = {"model": new, "objective": {}}
    with pytest.raises(
        ValueError, match=r"that model has no model/towers/image/.*, which this one does not train: .*frozen=F"
    ):
        start(Origin(held, {}), fresh, roles, roles.fixed)
    _, report = start(Origin(held, {"image": Held(new)}), fresh, roles, roles.fixed)
    assert "tower image: " in report


def test_square_grids_are_resized_and_the_class_token_stays():
    rows = np.concatenate([np.full((1, 2), 9.0), np.repeat(np.arange(4.0)[:, None], 2, 1)]).astype(np.float32)
    got = resize_grid(rows, 17)
    assert got.shape == (17, 2) and (got[0] == 9).all()
    np.testing.assert_allclose(got[1:].mean(0), 1.5, atol=1e-5)
    with pytest.raises(ValueError, match="only square grids can be resized"):
        resize_grid(np.zeros((7, 2)), 9)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: tower.Config("t", ("text",), pool="max"), "pool='max': must be one of cls, mean"),
        (lambda: tower.Config("t", ("text",), pool="cls", causal=True), "take `last`"),
        (lambda: tower.Config("t", ("text",), depth=0, pool="last"), "take `mean`"),
        (lambda: tower.Config("t", ("text",), heads=7), "dim=768: must be divisible by heads=7"),
        (lambda: make("text", TEXT, depth=0), "depth=0 projects rows of width dim=8; 'text' is sequence"),
        (lambda: make("text", TEXT, pad_id=30), "pad_id=30: 'text' has no such token"),
        (lambda: make("text", TEXT, project=False), "project=False leaves embeddings of dim=8, but embed_dim=5"),
        (lambda: multimodal.Config(()), "list at least one tower"),
        (lambda: multimodal.Config((tower.Config("t", ("a",)), tower.Config("t", ("b",)))), "has a name twice"),
        (lambda: model(trunk=False)[0].encode(None), "towers alone predict no tokens"),
    ],
)  # fmt: skip
def test_config_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_modalities_of_a_tower_must_share_their_form():
    both = multimodal.Config((tower.Config("t", ("photo", "text"), dim=8, heads=2),), embed_dim=5)
    with pytest.raises(ValueError, match="they differ in kind, shape or vocabulary"):
        multimodal.Model(both, ALL, ("photo",), nnx.Rngs(0))
    none = multimodal.Config((tower.Config("t", ("photo",), dim=8, heads=2, depth=1),), embed_dim=5)
    with pytest.raises(ValueError, match="none reads text, which the objectives embed"):
        multimodal.Model(none, ALL, ("photo", "text"), nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"modalities=\('film',\): must be of the run's"):
        multimodal.Model(multimodal.Config((tower.Config("t", ("film",)),)), ALL, ("film",), nnx.Rngs(0))
