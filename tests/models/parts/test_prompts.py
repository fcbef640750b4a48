"""Learned prompts: where they stand, what overwrites what, and which networks may read them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from towers import ALL, batch

from pretrain.frozen import from_dict
from pretrain.models.network import Config, Network
from pretrain.models.passes import Call, Constant, Leaf, compute, constant, constants, draw, evaluate
from pretrain.models.stream import NO_MODALITY
from pretrain.models.tokens import Whole

BLOCKS = dict(dim=8, heads=2, depth=3, mlp_ratio=2.0)
PARTS = dict(
    words=dict(part="prompts", dim=8, layers=3, at=1, words=[20, 21, 22], table="text_embed"),
    made=dict(part="prompts", reads=["words"], dim=4, layers=3),
    text_embed=dict(part="embed_one", reads=["text", "words"], dim=8),
    texts=dict(part="encoder", reads=["text_embed", "words"], causal=True, **BLOCKS),
    text_pool=dict(part="pool", reads=["texts"], width=8, how="last"),
    text_space=dict(part="project", reads=["text_pool"], dim=5),
    photo_embed=dict(part="embed_one", reads=["photo", "made"], dim=4, cls=True, norm=True),
    photos=dict(part="encoder", reads=["photo_embed", "made"], **BLOCKS | dict(dim=4)),
    photo_pool=dict(part="pool", reads=["photos"], width=4),
    photo_space=dict(part="project", reads=["photo_pool"], dim=5),
)  # fmt: skip
DATA = batch()


def make(left_out=(), noise=0.3, **changes):
    parts = {n: {**values, **changes.get(n, {})} for n, values in PARTS.items() if n not in left_out}
    network = Network(from_dict(Config, dict(parts=parts, dtype="float32"), "config.model"), ALL, (), nnx.Rngs(0))
    return tiny.perturbed(network, noise=noise) if noise else network


def shown(name):
    return Leaf(Whole((name,), ALL))


def streams(network, **more):
    """{part: Stream} of both towers, with what every block gave."""
    shows = dict(texts="text", text_embed="text", photos="photo", photo_embed="photo")
    nodes = {part: network.states.chain(part, shown(name)) for part, name in shows.items()}
    return compute(network, nodes, DATA, layers=[nodes["texts"], nodes["photos"]], **more)


def test_networks_say_that_prompts_depend_on_no_example():
    states = make().states
    assert states.embeds == ("photo", "text") and states.read_by("words") == states.read_by("made") == ()
    assert states.read_by("texts") == ("text",) and states.pooled_modalities == ("photo", "text")
    words = Call("words", ())
    node = states.chain("photos", shown("photo"))
    made = Call("made", (words,))
    assert node == Call("photos", (Call("photo_embed", (shown("photo"), made)), made))
    assert states.over("photos", {"photo": shown("photo")}) == node
    assert constant(words) and constants([node]) == [made] and not constant(node)
    assert constant(states.embedding("text", Constant(dict)))
    early = Leaf(min, "early")
    assert states.pooled("photo", shown("photo"), early).args[0].args == (node, made, early)


def test_prompts_of_a_text_stand_behind_its_start_and_those_of_a_picture_last():
    network = make()
    plain = make(left_out=("words", "made"), **{
        name: dict(reads=PARTS[name]["reads"][:1]) for name in ("text_embed", "texts", "photo_embed", "photos")
    }, noise=0)  # fmt: skip
    tree = nnx.to_pure_dict(nnx.state(network))
    nnx.replace_by_pure_dict(state := nnx.state(plain), {k: tree[k] for k in nnx.to_pure_dict(state)})
    nnx.update(plain, state)
    found, wanted = streams(network), streams(plain)
    rows = np.asarray(network.words.vectors[...][0] + network.text_embed.table[...][jnp.asarray([20, 21])])
    text = np.array(wanted["text_embed"].x)
    text[:, 1:3] = rows + np.asarray(network.text_embed.positions[...][1:3])
    np.testing.assert_allclose(found["text_embed"].x, text, atol=1e-6)
    made = np.asarray(rows @ network.made.linears.kernel[...][0] + network.made.linears.bias[...][0])
    photo = np.asarray(wanted["photo_embed"].x)
    np.testing.assert_allclose(found["photo_embed"].x[:, :-2], photo, atol=1e-6)  # the patches stand where they stood
    np.testing.assert_allclose(found["photo_embed"].x[0, -2:], network.photo_embed.norm(made), atol=1e-5)
    assert (found["photo_embed"].modality[:, -2:] == NO_MODALITY).all() and found["photo_embed"].valid[:, -2:].all()
    assert (found["text_embed"].modality[:, 1:3] == NO_MODALITY).all()
    np.testing.assert_array_equal(found["text_embed"].valid, wanted["text_embed"].valid)
    # A causal tower: what stands before the prompts does not see them.
    np.testing.assert_allclose(found["texts"].layers[:, :, 0], wanted["texts"].layers[:, :, 0], atol=1e-6)
    assert np.abs(found["texts"].x[:, 3:] - wanted["texts"].x[:, 3:]).max() > 1e-3


@pytest.mark.parametrize("name, at", [("texts", slice(1, 3)), ("photos", slice(-2, None))])
def test_later_blocks_prompts_overwrite_what_the_block_before_gave(name, at):
    network = make()
    found = streams(network)
    prompts = evaluate([n := network.states.fixed(name)[0]], {"online": network}, {})[n]
    given = found[f"{name[:-1]}_embed"]
    x = given.x
    block = lambda i: jax.tree.map(lambda a: a[i], getattr(network, name).blocks)
    mask = np.asarray(given.valid)[:, None, None, :]
    mask = mask & np.tril(np.ones((x.shape[1],) * 2, bool)) if name == "texts" else mask
    for i in range(3):
        x = np.array(x)
        if i:
            x[:, at] = prompts[i]
        one = block(i)
        x = jnp.asarray(x)
        q, k, v = one.attn.project(one.attn.norm(x))
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30))
        y = jnp.einsum("bhnm,bmhd->bnhd", weights, v).reshape(x.shape)
        x = x + one.attn.proj(y)
        x = x + one.mlp(x, None)[0]
        there = np.asarray(given.valid)
        np.testing.assert_allclose(np.asarray(found[name].layers[:, i])[there], np.asarray(x)[there], atol=1e-5)


def test_one_layer_is_shallow():
    """The same numbers as prompts that the embedding takes in and the encoder does not know of."""
    one = dict(words=dict(layers=1), made=dict(layers=1))
    deep = make(**one)
    shallow = make(**one, texts=dict(reads=["text_embed"]), photos=dict(reads=["photo_embed"]))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(deep)), nnx.to_pure_dict(nnx.state(shallow)))
    a, b = streams(deep), streams(shallow)
    for name in ("texts", "photos"):
        np.testing.assert_array_equal(a[name].x, b[name].x)
    assert np.abs(streams(make())["photos"].x - a["photos"].x).max() > 1e-3


@pytest.mark.parametrize("at, registers", [(-1, 0), (-1, 2), (0, 2), (3, 0)])
def test_an_encoder_takes_them_in_where_its_embedding_does_not(at, registers):
    """Of 4M's embedding of any modalities, too; registers stand before them."""
    parts = dict(
        own=dict(part="prompts", dim=8, layers=2, length=2, at=at),
        embed=dict(part="embed", dim=8),
        encoder=dict(part="encoder", reads=["embed", "own"], registers=registers, **BLOCKS),
    )  # fmt: skip
    config = from_dict(Config, dict(parts=parts, dtype="float32"), "config.model")
    network = tiny.perturbed(Network(config, ALL, (), nnx.Rngs(0)), noise=0.3)
    assert network.states.encodes(("photo", "text")) == "encoder"
    node = network.states.chain("encoder", Leaf(Whole(("photo", "text"), ALL)))
    data = draw([node], DATA, None)
    out, grads = jax.value_and_grad(
        lambda rows: jnp.square(
            evaluate([node], {"online": network}, data, known={Call("own", ()): rows})[node].x
        ).sum()
    )(network.own.vectors[...])  # fmt: skip
    assert all(np.abs(g).max() > 0 for g in grads) and np.isfinite(out)
    stream = compute(network, {"y": node}, DATA)["y"]
    first = registers + at if at >= 0 else stream.x.shape[1] - 2
    assert (stream.modality[:, first : first + 2] == NO_MODALITY).all()
    length = sum(m.length for m in ALL if m.name in ("photo", "text"))
    assert stream.x.shape[1] == registers + length + 2 * (at < 0)


def test_words_are_where_prompts_start_and_others_start_small():
    network = make(noise=0)
    vectors = np.asarray(network.words.vectors[...])
    assert (vectors[0] == 0).all() and 0.01 < vectors[1:].std() < 0.03
    rows = evaluate([n := network.states.fixed("texts")[0]], {"online": network}, {})[n]
    np.testing.assert_array_equal(rows[0], network.text_embed.table[...][jnp.asarray([20, 21])])
    assert network.made.linears.kernel.shape == (3, 8, 4) and network.made.vectors is None


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(words=dict(length=0)), "'words': length=0: must be at least 1"),
        (dict(words=dict(layers=0)), "'words': layers=0: must be at least 1"),
        (dict(words=dict(at=-2)), "'words': at=-2: must be at least -1"),
        (dict(words=dict(words=[20])), "start from as many words as length=2, or from none"),
        (dict(words=dict(table="texts")), "table='texts': name the embedding of a text of width dim=8"),
        (dict(words=dict(at=9)), "2 prompts at=9 need places 0 to 5 of 'text'"),
        (dict(made=dict(length=1)), r"'made': length=\(1, 3\): 'words' has length=2, layers=3: take the same"),
        (dict(made=dict(reads=["text_space"])), "name other prompts that these are made of, or nothing"),
        (dict(made=dict(words=[1, 2])), "these start as what is made of others: leave words="),
        (dict(made=dict(dim=8)), "'photo_embed': dim=4: 'made', which it reads, gives prompts of width 8"),
        (dict(photos=dict(reads=["made", "photo_embed"])), "'photos': reads=.*takes one part `prompts`, named last"),
        (dict(photos=dict(reads=["photo_embed", "made", "words"])), "'photos': reads=.*takes one part `prompts`"),
        (dict(photos=dict(depth=2)), "'photos': depth=2: 'made' has layers=3: take no more than blocks"),
        (dict(photo_embed=dict(reads=["photo", "made"]), made=dict(at=0)), "'photo_embed': .*at=0 need places 1 to"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(noise=0, **changes)
