"""Towers as they are composed: beside a trunk, frozen, loaded, and bad settings; their parts: tests/models/parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from towers import ALL, batch, make

from pretrain import optim
from pretrain.adapt import Split
from pretrain.initialize import Load, Source, check_start, resize_grid, start
from pretrain.models import encdec, multimodal, tower
from pretrain.models.network import Network, describe
from pretrain.models.passes import Leaf, compute
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Whole
from pretrain.objectives import contrastive
from pretrain.objectives.base import Context
from pretrain.objectives.corruptions import Entry
from pretrain.parameters import Roles, variables


def composition(trunk=True, **changes):
    towers = (
        tower.Config("image", ("photo",), dim=8, heads=2, depth=3, **changes),
        tower.Config("words", ("text",), dim=8, heads=2, depth=1, pool="last", causal=True),
        tower.Config("sound", ("sound",), dim=8, heads=1, depth=0),
    )
    small = encdec.Config(dim=8, heads=2, encoder_depth=1, decoder_depth=1, embed_dim=5, dtype="float32")
    return multimodal.Config(towers, embed_dim=5, trunk=small if trunk else None, dtype="float32")


def model(trunk=True, **changes):
    names = ("photo", "text", "sound", "grid") if trunk else ("photo", "text", "sound")
    return Network(composition(trunk, **changes), ALL, names, nnx.Rngs(0))


def shown(*names):
    return Leaf(Whole(names, ALL))


def test_towers_and_trunk_embed_into_one_space():
    made, data = model(), batch()
    names, lowest = [m.name for m in ALL], Leaf(Entry("lowest"))
    nodes = {n: made.states.embedding(n, shown(n)) for n in names}
    early = {(n, "early"): made.states.embedding(n, shown(n), lowest) for n in names if n != "sound"}
    z = compute(made, nodes | early, data | {"lowest": jnp.zeros(3)})
    for name in names:
        assert z[name].shape == (3, 5)
        np.testing.assert_allclose(np.linalg.norm(z[name], axis=1), 1, atol=1e-4)
        alone = compute(made, {name: nodes[name]}, {name: data[name]})[name]
        np.testing.assert_allclose(alone, z[name], atol=1e-5)
    assert np.abs(z["photo", "early"] - z["photo"]).max() > 1e-3
    assert made.states.embedding("sound", shown("sound"), lowest) is None
    assert compute(made, {"x": made.states.chain("encoder", shown("grid"))}, data)["x"].x.shape == (3, 4, 8)


def test_the_trunk_beside_towers_predicts_tokens():
    made, data = Predictor(model()), batch()
    given, asked = Whole(("photo",), ALL)(data), Whole(("grid", "text"), ALL)(data).tokens
    decoded = made.decode(made.encode(given), asked)
    assert decoded.x.shape == (3, 10, 8) and made.logits(decoded.x, "grid").shape == (3, 10, 9)
    assert made.nll(decoded, asked.ids).shape == (3, 10) and made.vocabularies == ("text", "grid")


def parts_of(params, tower="image"):
    return {n.removeprefix(f"{tower}_"): part for n, part in params.items() if n.startswith(f"{tower}_")}


@pytest.mark.slow
def test_a_frozen_tower_learns_nothing_but_its_projection():
    """Its parts are the base of a run, which no gradient is taken of and the optimizer does not see."""
    made, data = model(frozen=True), batch()
    graph, state = nnx.split(made)
    params = {"model": nnx.to_pure_dict(state), "objective": {}}
    split = Split((), params, roles_of(made), frozen=[f"model/{n}/" for n, c in made.states.parts if c.frozen])
    own, base = split.trained(params, 0), split.base(params)
    assert base["model"].keys() == {"image_embed", "image_encoder"}
    assert parts_of(own["model"]).keys() == {"project"}

    def loss(own):
        m = nnx.merge(graph, split.compose(own, base)["model"])
        return compute(m, {"z": m.states.embedding("photo", shown("photo"))}, data)["z"][0, 0]

    assert parts_of(jax.grad(loss)(own)["model"])["project"]["linear"]["kernel"].any()
    chain = optim.make_optimizer(optim.Config(lr=0.1, weight_decay=0.5), own, 10, split.roles)
    updates, _ = chain.update(jax.tree.map(jnp.ones_like, own), chain.init(own), own)
    assert all(x.any() for x in jax.tree.leaves(updates))
    with pytest.raises(ValueError, match="'image_encoder' matches no parameter"):
        optim.make_optimizer(optim.Config(rules=(optim.Rule("image_encoder", 0.5),)), own, 10, split.roles)


def roles_of(made):
    return Roles({"model": variables(made), "objective": {}})


class Held:
    """What `restore` gives, as far as `start` looks at it."""

    def __init__(self, params, roles):
        self.params, self.roles = {"model": params}, roles


def test_a_tower_starts_from_another_models():
    old, new = (nnx.to_pure_dict(nnx.split(model())[1]) for _ in range(2))
    roles = roles_of(model())

    def start_from(*towers):
        names = Load("there", towers).names(tuple(old), tuple(new))
        return start([Source("config.load: 'there'", Held(old, roles), names)], {"model": new, "objective": {}}, roles)

    old |= {n: jax.tree.map(lambda x: x + 1.0, part) for n, part in old.items() if n.startswith("image_")}
    old["image_embed"]["positions"] = jnp.arange(9 * 8.0).reshape(9, 8)
    params, report = start_from("image")
    got = params["model"]
    np.testing.assert_array_equal(
        got["image_encoder"]["blocks"]["mlp"]["fc1"]["kernel"], old["image_encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
    )
    np.testing.assert_array_equal(
        got["image_embed"]["positions"], resize_grid(np.arange(72.0).reshape(9, 8), 4)
    )  # fmt: skip
    np.testing.assert_array_equal(got["words_embed"]["table"], new["words_embed"]["table"])
    assert len(report.loaded) == len(jax.tree.leaves(parts_of(new))) and not report.new and not report.dropped
    old["image_project"]["linear"]["kernel"] = jnp.zeros((8, 7))  # a tower of another embedding space
    params, report = start_from("image")
    got, want = params["model"]["image_project"]["linear"], new["image_project"]["linear"]
    np.testing.assert_array_equal(got["kernel"], want["kernel"])
    assert report.new == ("model/image_project/linear/kernel",)
    old["words_embed"]["positions"] = jnp.zeros((4, 8))  # as many as a square grid has, but of a text
    new["words_embed"]["positions"] = jnp.zeros((9, 8))
    with pytest.raises(ValueError, match=r"positions has shape \(4, 8\) there and \(9, 8\) here"):
        start_from("words")


def test_a_frozen_tower_that_nothing_gives_is_refused():
    made = model(frozen=True)
    new, roles = nnx.to_pure_dict(nnx.split(made)[1]), roles_of(made)
    old = {k: v for k, v in new.items() if not k.startswith(("image_", "words_", "sound_"))}
    fresh, everything = {"model": new, "objective": {}}, {"model": "model", "objective": "objective"}
    source = lambda held, names=everything: Source("there", Held(held, roles), names)
    stays = Split((), fresh, roles, frozen=("model/image_embed/", "model/image_encoder/")).stays
    with pytest.raises(ValueError, match=r"nothing there gives model/image_.*, which this run does not train.*frozen="):
        check_start([source(old)], fresh, roles, stays)
    both = [source(old), source(new, {f"model/image_{n}": f"model/image_{n}" for n in ("embed", "encoder")})]
    assert "arrays of parameters loaded" in check_start(both, fresh, roles, stays)
    _, report = start([source(old)], fresh, roles)
    assert len(report.loaded) == len(jax.tree.leaves(old)), "towers that learn may be new"
    nothing = source({"embed": new["embed"]})  # embeddings alone are no network to start from
    with pytest.raises(ValueError, match="give this config its kind of blocks"):
        start([nothing], fresh, roles)


def test_towers_whose_names_begin_alike_are_told_apart():
    towers = [
        tower.Config(name, (modality,), dim=8, heads=2, depth=1, frozen=True)
        for name, modality in (("image", "photo"), ("image_text", "text"))
    ]
    made = Network(multimodal.Config(tuple(towers), 5, dtype="float32"), ALL, ("photo", "text"), nnx.Rngs(0))
    new, roles = nnx.to_pure_dict(nnx.split(made)[1]), roles_of(made)
    image = {n: part for n, part in new.items() if not n.startswith("image_text_")}
    fresh, names = {"model": new, "objective": {}}, Load("there", ("image",)).names(tuple(new), tuple(new))
    source = Source("there", Held(new, roles), names)
    stays = Split((), fresh, roles, frozen=[f"model/{n}/" for n, c in made.states.parts if c.frozen]).stays
    with pytest.raises(ValueError, match=r"nothing there gives model/image_text_.*, which this run does not train"):
        check_start([source], fresh, roles, stays)
    _, report = start([source], fresh, roles)
    assert len(report.loaded) == len(jax.tree.leaves(image)) and not report.new


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
        (lambda: make("text", depth=0), "'t_embed': dim=8: raw rows have the width of 'text', which is sequence"),
        (lambda: make("text", pad_id=30), "pad_id=30: 'text' has no such token"),
        (lambda: make("text", project=False), "project=False leaves embeddings of dim=8, but embed_dim"),
        (lambda: multimodal.Config(()), "list at least one tower"),
        (lambda: multimodal.Config((tower.Config("t", ("a",)), tower.Config("t", ("b",)))), "has a name twice"),
        (lambda: Predictor(model(trunk=False)), "this model has no decoder"),
    ],
)  # fmt: skip
def test_config_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_modalities_of_a_tower_must_share_their_form():
    both = multimodal.Config((tower.Config("t", ("photo", "text"), dim=8, heads=2),), embed_dim=5)
    with pytest.raises(ValueError, match="they differ in kind, shape or vocabulary"):
        Network(both, ALL, ("photo",), nnx.Rngs(0))
    none = multimodal.Config((tower.Config("t", ("photo",), dim=8, heads=2, depth=1),), embed_dim=5)
    given = Context(ALL, network=describe(none.compose(ALL, ("photo", "text")), ALL))
    with pytest.raises(ValueError, match="the network gives no embedding of 'text', but of photo; add it to a tower"):
        contrastive.Objective(given, (contrastive.Edge("photo", "text"),))
    with pytest.raises(ValueError, match=r"reads=\('film',\): no part 'film' stands before it, and no modality of"):
        Network(multimodal.Config((tower.Config("t", ("film",)),)), ALL, ("film",), nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"'t_embed': reads=.*: name at least one modality"):
        Network(multimodal.Config((tower.Config("t", ()),)), ALL, (), nnx.Rngs(0))


def test_the_parts_of_towers_and_of_a_trunk():
    parts = composition().compose(ALL, ("grid",))
    assert [n for n in parts if n.startswith("image")] == "image_embed image_encoder image_pool image_project".split()
    trunk = [n for n in parts if "_" not in n]
    assert trunk == "embed encoder decoder head pool project".split()
    assert parts["project"].of == ("grid",), "what a tower reads has its projection there"
    assert [n for n, part in parts.items() if part.numerics] == trunk
