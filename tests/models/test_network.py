"""Networks of parts as a config lists them: their names, numerics, frozen parts, and how far each is from the end."""

import json
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import nnx
from towers import ALL, batch

from pretrain import build
from pretrain.adapt import Split
from pretrain.frozen import from_dict
from pretrain.models.network import Config, Network
from pretrain.models.parts.base import Numerics
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole
from pretrain.parameters import Roles, variables

BLOCKS = dict(dim=8, heads=2, depth=2, mlp_ratio=2.0)
PARTS = dict(
    patches=dict(part="embed_one", reads=["photo"], dim=8),
    words=dict(part="embed_one", reads=["text"], dim=8, pad_id=0),
    photos=dict(part="encoder", reads=["patches"], **BLOCKS),
    texts=dict(part="encoder", reads=["words"], **BLOCKS | dict(depth=1)),
    photo_vector=dict(part="pool", reads=["photos"], width=8),
    text_vector=dict(part="pool", reads=["texts"], width=8, how="last"),
    photo_space=dict(part="project", reads=["photo_vector"], dim=5),
    text_space=dict(part="project", reads=["text_vector"], dim=5),
)  # fmt: skip


def make(dtype="float32", **changes):
    parts = {n: {**values, **changes.get(n, {})} for n, values in PARTS.items()}
    config = from_dict(Config, dict(parts=parts, dtype=dtype), "config.model")
    return Network(config, ALL, ("photo", "text"), nnx.Rngs(0))


def embed(network, data):
    nodes = {n: network.states.embedding(n, Leaf(Whole((n,), ALL))) for n in ("photo", "text")}
    return compute(network, nodes, data)


def test_a_config_lists_parts():
    network = make()
    assert network.states.embeds == ("photo", "text") and network.states["text_vector"].at_end
    z = embed(network, batch())
    for name in ("photo", "text"):
        np.testing.assert_allclose(np.linalg.norm(z[name], axis=1), 1, atol=1e-4)
    paths = [path for path, _ in Roles({"model": variables(network)}).items()]
    assert {path.split("/")[1] for path in paths} == PARTS.keys() - {"photo_vector", "text_vector"}
    assert "model/photos/blocks/attn/qkv/kernel" in paths


def test_parts_come_in_any_order():
    """A config has its keys sorted, and a workdir's too: parts stand behind those that they read all the same."""
    config = ml_collections.ConfigDict(dict(model="models.network", parts=PARTS, dtype="float32"))
    assert list(config.parts) == sorted(PARTS) != list(PARTS)
    read = json.loads(json.dumps(config.to_dict(), sort_keys=True))
    run = types.SimpleNamespace(model=read)
    ordered = build.model_config(run).compose(ALL, ())
    for i, (name, part) in enumerate(ordered.items()):
        assert not {*part.reads} & {*list(ordered)[i:]}, name
    network, data = Network(build.model_config(run), ALL, (), nnx.Rngs(0)), batch()
    assert embed(network, data)["photo"].shape == (3, 5)


def test_a_part_starts_the_same_whatever_stands_behind_it():
    """Parameters are drawn by the name of their part."""
    one, two = make(), make(texts=dict(depth=3))
    np.testing.assert_array_equal(one.photos.blocks.attn.qkv.kernel[...], two.photos.blocks.attn.qkv.kernel[...])
    np.testing.assert_array_equal(one.text_space.linear.kernel[...], two.text_space.linear.kernel[...])


def test_what_lies_before_an_encoder_counts_as_one_block_more():
    roles = dict(Roles({"model": variables(make())}).items())
    assert roles["model/patches/positions"].depth == 3 and roles["model/words/table"].depth == 2
    blocks = roles["model/photos/blocks/attn/qkv/kernel"]
    assert blocks.stacked and blocks.depth == 2
    assert not roles["model/photos/norm/scale"].depth and not roles["model/photo_space/linear/kernel"].depth


def test_a_frozen_part_is_given_and_gradients_pass_through_it():
    network, data = make(photos=dict(frozen=True)), batch()
    assert [name for name, part in network.states.parts if part.frozen] == ["photos"]
    graph, params = nnx.split(network)
    tree = {"model": nnx.to_pure_dict(params), "objective": {}}
    split = Split((), tree, Roles({"model": variables(network), "objective": {}}), frozen=("model/photos/",))
    own, base = split.trained(tree, 0), split.base(tree)
    assert base == {"model": {"photos": base["model"]["photos"]}, "objective": {}}

    def loss(own):
        return sum(embed(nnx.merge(graph, split.compose(own, base)["model"]), data).values())[0, 0]

    moved = {name for name, part in jax.grad(loss)(own)["model"].items() if any(map(np.any, jax.tree.leaves(part)))}
    assert moved == {"patches", "photo_space", "words", "texts", "text_space"}


def test_a_part_may_have_numerics_of_its_own():
    network = make("bfloat16", photos=dict(numerics=dict(dtype="float32")))
    run = lambda network, x: str(jax.make_jaxpr(lambda x: network.run("photos", x).x)(x))
    stream = make().run("patches", Whole(("photo",), ALL)(batch()))
    assert "bf16" not in run(network, stream) and "bf16" in run(make("bfloat16"), stream)
    assert network.states["photos"].numerics == Numerics("float32")


@pytest.mark.parametrize("name", ["run", "states", "modalities", "embedded"])
def test_a_part_has_a_name_of_its_own(name):
    config = from_dict(Config, dict(parts={name: PARTS["patches"]}), "config.model")
    with pytest.raises(ValueError, match=f"model.parts: '{name}': a network has something else of that name"):
        Network(config, ALL, (), nnx.Rngs(0))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(photos=dict(dim=4)), "'photos': dim=4: 'patches', which it reads, gives tokens of width 8"),
        (dict(photo_vector=dict(width=4)), "'photo_vector': width=4: 'photos', which it reads, gives tokens of width"),
        (dict(photo_vector=dict(how="max")), "'photo_vector': how='max': must be one of mean, cls"),
        (
            dict(photo_vector=dict(how="queries")),
            "'photo_vector': pool_queries=0: a positive number with how='queries'",
        ),
        (dict(photo_space=dict(identity=True)), "'photo_space': dim=5: identity=True leaves embeddings of dim=8"),
        (dict(patches=dict(positions="round")), "'patches': positions='round': must be one of learned, sincos, none"),
        (dict(patches=dict(reads=[])), "'patches': reads=.*: name at least one modality"),
        (dict(words=dict(reads=["photo", "text"])), "'words': reads=.*: they differ in kind, shape or vocabulary"),
        (dict(words=dict(pad_id=30)), "'words': pad_id=30: 'text' has no such token; set -1"),
        (dict(patches=dict(raw=True)), "'patches': dim=8: raw rows have the width of 'photo', which is pixels"),
        (dict(photos=dict(part="encode")), "encode"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_jit_takes_a_network_as_an_argument():
    """Its parts and settings are static: networks of the same ones share a compilation."""
    count = []

    @jax.jit
    def f(network, x):
        count.append(1)
        return network.run("photo_space", x)

    x = jnp.ones((2, 8))
    assert f(make(), x).shape == f(make(), 2 * x).shape == (2, 5) and len(count) == 1
