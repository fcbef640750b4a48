"""Interventions: who no longer sees whom, which blocks pass tokens by, and vectors in the place of what is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import towers
from flax import nnx
from tiny import MODALITIES

from pretrain.models.blocks.base import Given
from pretrain.models.edits import Cut, Edited, Replace, Skip
from pretrain.models.layers import Seen
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole

DATA = tiny.batch(3, missing=0.0)
NAMES = ("image", "depth", "caption")
NETWORK = tiny.model(encoder_depth=3, registers=1)
EVERY = np.ones(3, bool)
DEPTH = DATA | {"depth": DATA["depth"] | {"ids": (DATA["depth"]["ids"] + 1) % 12}}  # other ones


def of(name):
    return lambda stream: stream.valid & (stream.modality == [m.name for m in MODALITIES].index(name))


def encode(edits, data=DATA, network=NETWORK, names=NAMES):
    node = network.states.chain("encoder", Leaf(Whole(names, MODALITIES)))
    return compute(Edited(network, edits), {"x": node}, data, layers=(node,))["x"]


def test_where_nothing_is_changed_not_a_bit_is():
    node = {"x": NETWORK.states.chain("encoder", Leaf(Whole(NAMES, MODALITIES)))}
    run = jax.jit(lambda network: compute(network, node, DATA)["x"].x)
    plain, edited = run(NETWORK), jax.jit(lambda: compute(Edited(NETWORK, {}), node, DATA)["x"].x)()
    np.testing.assert_array_equal(plain, edited)
    nobody = lambda stream: jnp.zeros_like(stream.valid)
    for edit in (Cut(nobody, nobody, EVERY), Cut(of("image"), of("depth"), ~EVERY), Skip(nobody, EVERY)):
        np.testing.assert_allclose(encode({"encoder": edit}).x, plain, atol=1e-6)


def test_nothing_passes_where_attention_is_cut():
    """What changes among sources changes no target but over what is neither."""
    cut = lambda target, blocks=EVERY: {"encoder": Cut(target, of("depth"), jnp.asarray(blocks))}
    image = np.arange(1, 17)
    others = lambda stream: stream.valid & ~of("depth")(stream)
    one, two = (encode(cut(others), data) for data in (DATA, DEPTH))
    np.testing.assert_allclose(one.x[:, image], two.x[:, image], atol=1e-6)
    assert np.abs(one.x[:, 17:23] - two.x[:, 17:23]).max() > 1e-3, "sources see themselves"
    one, two = (encode(cut(of("image")), data) for data in (DATA, DEPTH))
    assert np.abs(one.x[:, image] - two.x[:, image]).max() > 1e-4, "by what others saw of them"
    np.testing.assert_allclose(one.layers[:, 0, image], two.layers[:, 0, image], atol=1e-6)
    one, two = (encode(cut(others, [False, True, True]), data) for data in (DATA, DEPTH))
    assert np.abs(one.layers[:, 0, image] - two.layers[:, 0, image]).max() > 1e-4, "the first block is not cut"


@pytest.mark.parametrize("heads", [None, [True, False]])
def test_a_cut_is_a_mask_of_some_blocks_and_heads(heads):
    """As blocks by hand whose masks leave out the pairs; one that sees nothing else sees itself."""
    blocks = np.asarray([False, True, False])
    everyone = lambda stream: stream.valid
    found = encode({"encoder": Cut(everyone, everyone, blocks, None if heads is None else np.asarray(heads))})
    stream = NETWORK.run("embed", Whole(NAMES, MODALITIES)(DATA))
    x = jnp.concatenate([jnp.broadcast_to(NETWORK.encoder.registers[...], (3, 1, 16)), stream.x], 1)
    valid = np.pad(stream.valid, ((0, 0), (1, 0)), constant_values=True)[:, None, None]
    alone = valid & np.eye(x.shape[1], dtype=bool)
    masks = jnp.broadcast_to(valid, (3, 2, *alone.shape[2:]))
    masks = jnp.where(jnp.asarray(heads or [True, True])[:, None, None], alone, masks)
    graph, params = nnx.split(NETWORK.encoder.blocks)
    for i, cut in enumerate(blocks):
        block = nnx.merge(graph, jax.tree.map(lambda p, i=i: p[i], params))
        x, _ = block(x, Given(Seen(masks if cut else valid)))
        # Rows of empty slots differ: they see nothing there, and what is valid here.
        np.testing.assert_allclose((found.layers[:, i] - x) * found.valid[..., None], 0, atol=1e-5)


def test_tokens_skip_branches_of_some_blocks():
    everyone = lambda stream: jnp.ones_like(stream.valid)
    all_of_it = Skip(everyone, EVERY, ("attn", "mlp"))
    stream = NETWORK.run("embed", Whole(NAMES, MODALITIES)(DATA))
    np.testing.assert_allclose(
        encode({"encoder": all_of_it}).x[:, 1:], NETWORK.encoder.norm(stream.x), atol=1e-6
    )  # fmt: skip
    plain = encode({})
    found = encode({"encoder": Skip(of("image"), jnp.asarray([True, False, False]))})
    graph, params = nnx.split(NETWORK.encoder.blocks)
    first = nnx.merge(graph, jax.tree.map(lambda p: p[0], params))
    np.testing.assert_allclose(found.layers[:, 0, 17:], plain.layers[:, 0, 17:], atol=1e-6)
    np.testing.assert_allclose(
        found.layers[:, 0, 1:17] + first.mlp(found.layers[:, 0, 1:17], Given())[0], plain.layers[:, 0, 1:17], atol=1e-5
    )
    assert np.abs(found.x[:, 17:] - plain.x[:, 17:]).max() > 1e-4, "the others see them in the blocks behind"


def test_vectors_stand_in_the_place_of_tokens():
    """A word's own vector changes nothing; two of them move what they replace, with positions as before."""
    table = NETWORK.embed.tables["image"][...]
    own, other = table[DATA["image"]["ids"][:, [5, 9]]], table[np.asarray([[1, 2]] * 3)]
    at = np.full(16, -1)
    at[[5, 9]] = 0, 1
    plain = encode({}, names=("image",))
    same = encode({"embed": Replace(own, at)}, names=("image",))
    np.testing.assert_allclose(same.x, plain.x, atol=1e-6)
    ids = DATA["image"]["ids"].copy()
    ids[:, [5, 9]] = 1, 2
    wanted = encode({}, DATA | {"image": DATA["image"] | {"ids": ids}}, names=("image",))
    found = encode({"embed": Replace(other, at)}, names=("image",))
    np.testing.assert_allclose(found.x, wanted.x, atol=1e-6)
    pull = jax.grad(lambda v: jnp.square(encode({"embed": Replace(v, at)}, names=("image",)).x[..., 0]).sum())(other)
    assert (np.abs(pull).max(-1) > 0).all()


@pytest.mark.parametrize("pool", ["cls", "last"])
def test_a_tower_takes_them_before_its_positions_and_its_class_token(pool):
    network, data = towers.make("text", pool=pool), towers.batch()
    ids = data["text"]["ids"].copy()
    ids[:, 1] = 7
    wanted, _, _ = towers.run(network, data | {"text": data["text"] | {"ids": ids}}, "text")
    at = np.asarray([-1, 0, -1, -1, -1, -1])
    values = jnp.broadcast_to(network.t_embed.table[7], (3, 1, 8))
    found, _, _ = towers.run(Edited(network, {"t_embed": Replace(values, at)}), data, "text")
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_what_cannot_be_changed_says_so():
    data = {"stream": NETWORK.run("embed", Whole(NAMES, MODALITIES)(DATA))}
    with pytest.raises(ValueError, match=r"model.parts: 'pool': nothing can be changed inside of it"):
        Edited(NETWORK, {"pool": Skip(of("image"), EVERY)}).run("pool", data["stream"])
    assert [name for name, part in NETWORK.states.parts if part.edited] == ["embed", "encoder"]
    with pytest.raises(ValueError, match="attention has a bias of its own"):
        cut = Cut(of("image"), of("depth"), EVERY)
        NETWORK.run("encoder", data["stream"], edit=cut, bias=jnp.zeros((1, 1, 33, 33)))
