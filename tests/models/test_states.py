"""What networks say that they can do, by their parts alone: who reads whom, and the nodes of what is asked."""

import dataclasses

import numpy as np
import pytest
import tiny
from towers import ALL, GRID, PHOTO, TEXT, batch, make

from pretrain.models import encdec, multimodal, tower
from pretrain.models.network import describe
from pretrain.models.parts import base, decoder, embed, embed_one, encoder, fusion, head, pick, pool, project
from pretrain.models.passes import Leaf, call, compute
from pretrain.models.states import States
from pretrain.models.tokens import Whole

TRUNK = encdec.Config(dim=8, heads=2, encoder_depth=1, decoder_depth=1, embed_dim=5)
TOWERS = (
    tower.Config("image", ("photo",), dim=8, heads=2, depth=3),
    tower.Config("words", ("text",), dim=8, heads=2, depth=1, pool="last", causal=True),
    tower.Config("sound", ("sound",), dim=8, heads=1, depth=0),
)


def states(trunk=TRUNK, embedded=("photo", "text", "sound", "grid")):
    return describe(multimodal.Config(TOWERS, 5, trunk=trunk).compose(ALL, embedded), ALL)


def shown(*names):
    return Leaf(Whole(names, ALL))


def test_an_encoder_decoder():
    made = tiny.model(pool_queries=3).states
    assert made.modalities == ("image", "depth", "caption", "label")
    assert made.embeds == ("image", "caption") and made.pooled_modalities == made.modalities
    assert (made.embed_dim, made["pool"].dim, made["encoder"].dim, made["encoder"].depth) == (8, 48, 16, 2)
    assert (made.predicts, made.encodes(("depth", "label")), made.pools("encoder")) == ("head", "encoder", "pool")
    assert "decoder" in made and "autoencoder" not in made
    assert tiny.model(embedded=()).states.embeds == () and tiny.model(embedded=()).states.embed_dim == 0


def test_towers_alone_and_beside_a_trunk():
    alone, beside = states(None, ("photo", "text", "sound")), states()
    assert alone.embeds == ("photo", "text", "sound") and beside.embeds == ("photo", "text", "sound", "grid")
    assert (alone.predicts, beside.predicts) == ("", "head") and alone.embed_dim == beside.embed_dim == 5
    # The embedding of a tower takes modalities one at a time.
    assert alone.encodes(("photo",)) == alone.encodes(("grid",)) == ""
    assert beside.encodes(("photo", "grid")) == "encoder"
    assert (beside.pools("encoder"), beside.pools("image_encoder"), beside.pools("decoder")) == (
        "pool", "image_pool", "",
    )  # fmt: skip


def test_the_modalities_that_reach_a_part():
    made = states()
    assert (made.read_by("image_project"), made.read_by("sound_pool")) == (("photo",), ("sound",))
    assert made.read_by("encoder") == made.modalities == ("photo", "text", "sound", "grid")
    both = describe({"embed": embed.Config(("grid", "text"), 8), "encoder": encoder.Config(("embed",), 8, 1, 2)}, ALL)
    assert both.read_by("encoder") == ("grid", "text") and both.encodes(("text", "grid")) == "encoder"
    assert both.encodes(("text", "photo")) == ""


def test_nodes_are_chains_of_calls():
    made, leaf = states(), shown("photo")
    stream = call("image_encoder", call("image_embed", leaf))
    assert made.chain("image_encoder", leaf) == made.stream("photo", leaf) == stream
    assert made.pooled("photo", leaf) == call("image_pool", stream)
    assert made.embedding("photo", leaf) == call("image_project", call("image_pool", stream), modality="photo")
    # What decodes is shown its queries elsewhere: the chain is that of its first argument.
    assert made.chain("pool", shown("grid", "text")).args[0].args[0].args == (shown("grid", "text"),)
    # The first part that takes a modality has it: the trunk reads photos too.
    assert made.embedding("grid", shown("grid")).part == "project"
    assert made.stream("sound", shown("sound")) == call("sound_embed", shown("sound")), "a tower of depth 0"


def test_what_an_earlier_layer_is_asked_of():
    made, leaf, early = states(), shown("photo"), Leaf(min, "early")
    last = call("image_encoder", call("image_embed", leaf))
    earlier = call("image_encoder", last, early)
    assert made.embedding("photo", leaf, early) == call("image_project", call("image_pool", earlier), modality="photo")
    assert made.embedding("sound", shown("sound"), early) is None, "it has no layers"


def test_what_nobody_gives():
    made = states(None, ("photo", "text", "sound"))
    leaf = shown("grid")
    assert made.stream("grid", leaf) is made.pooled("grid", leaf) is made.embedding("grid", leaf) is None
    assert States().embeds == () and States().predicts == "" and States().encodes(()) == ""
    half = describe(TRUNK.compose(ALL, ("photo",)), ALL)
    assert half.embedding("grid", leaf) is None and half.pooled("grid", leaf) is not None, "pooled, but not projected"
    assert half.embeds == ("photo",)


def test_a_part_that_is_asked_for_and_not_there_is_named():
    made = states()
    assert made.need("head", "objectives.masked.head") == head.Config(("decoder",), "embed", numerics=TRUNK.numerics)
    with pytest.raises(ValueError, match=r"masked\.head='heads': the network has no such part; it has image_embed, "):
        made.need("heads", "objectives.masked.head")


@pytest.mark.parametrize(
    "parts, message",
    [
        (
            {"encoder": encoder.Config(("embed",)), "embed": embed.Config()},
            r"'encoder': reads=\('embed',\): no part 'embed' stands before it, .* there are grid, photo, sound, text",
        ),
        ({"one": embed_one.Config(("film",))}, r"'one': reads=\('film',\): no part 'film' stands before it"),
        (
            {"embed": embed.Config(), "decoder": decoder.Config(("embed", "encoder"))},
            "no part 'encoder' stands before it, and no modality of the run is called so; there are embed, ",
        ),
    ],
)
def test_parts_read_what_stands_before_them(parts, message):
    with pytest.raises(ValueError, match=message):
        describe(parts, ALL)


def test_several_may_read_one():
    """Two poolings of one encoder: what is projected is what the projection reads."""
    parts = {
        "embed": embed_one.Config(("photo",), 8), "encoder": encoder.Config(("embed",), 8, 1, 2),
        "mean": pool.Config(("encoder",), 8), "map": pool.Config(("encoder",), 8, "map", heads=2),
        "project": project.Config(("map",), 5),
    }  # fmt: skip
    made = describe(parts, (PHOTO, TEXT, GRID))
    stream = made.stream("photo", shown("photo"))
    assert made.embedding("photo", shown("photo")) == call("project", call("map", stream), modality="photo")
    assert made.pooled("photo", shown("photo")) == call("map", stream) and made.pools("encoder") == "mean"
    del parts["project"]
    assert describe(parts, (PHOTO, TEXT, GRID)).pooled("photo", shown("photo")) == call("mean", stream)


class Filler(base.Config):
    """Reads the photo first and the text second, and makes do with one of them."""

    dim, fills = 8, True


def filled(fill):
    return {
        "see": embed_one.Config(("photo",), 8), "read": embed_one.Config(("text",), 8),
        "words": encoder.Config(("read",), 8, 1, 2), "fill": fill(("see", "read")),
        "cross": fusion.Config(("fill", "words"), 8, 1, 2), "crossed": pick.Config(("cross",), "fill", 8),
        "pool": pool.Config(("crossed",), 8), "project": project.Config(("pool",), 5),
    }  # fmt: skip


def test_what_fills_gaps_is_made_of_any_of_what_it_reads():
    """And what was fused of it, of that alone of which every stream can be made."""
    made, photo, text = describe(filled(Filler), (PHOTO, TEXT)), shown("photo"), shown("text")
    assert made.embeds == made.pooled_modalities == ("text",), "the other stream cannot be made of a photo"
    fused = call("cross", call("fill", call("read", text), given=("read",)), call("words", call("read", text)))
    assert made.stream("text", text) == call("crossed", fused)
    assert made.pooled("text", text) == call("pool", call("crossed", fused))
    assert made.embedding("text", text) == call("project", made.pooled("text", text), modality="text")
    assert made.alone("fill", "photo", photo) == call("fill", call("see", photo), given=("see",))
    both = made.over("fill", dict(photo=photo, text=text))
    assert both == call("fill", call("see", photo), call("read", text)), "it is told nothing where all are there"


class Vectors(base.Config):
    """A vector of streams of any of which it can be made."""

    dim, fills, gives = 8, True, base.VECTOR


def test_the_stream_that_is_pooled_of_a_modality_is_one_of_its_own():
    parts = {
        "see": embed_one.Config(("photo",), 8), "read": embed_one.Config(("text",), 8),
        "words": encoder.Config(("read",), 8, 1, 2), "both": Vectors(("see", "words")),
        "project": project.Config(("both",), 5), "names": embed_one.Config(("text", "title"), 8),
    }  # fmt: skip
    made, text = describe(parts, (PHOTO, TEXT, dataclasses.replace(TEXT, name="title"))), shown("text")
    words = call("words", call("read", text))
    assert made.stream("text", text) == words and made.stream("photo", shown("photo")).part == "see"
    assert made.embedding("text", text) == call("project", call("both", words, given=("words",)), modality="text")
    assert made.joins("project") and made.joins("words") and not made.joins("names")


def test_without_such_a_part_what_was_fused_is_of_no_modality_alone():
    class Plain(Filler):
        fills = False

    assert describe(filled(Plain), (PHOTO, TEXT)).pooled_modalities == ()


def test_a_node_may_stand_for_a_part():
    """What an objective puts in the place of what the network would: all that lies above it reads that."""
    parts = {
        "embed": embed_one.Config(("photo",), 8), "encoder": encoder.Config(("embed",), 8, 1, 2),
        "pool": pool.Config(("encoder",), 8), "project": project.Config(("pool",), 5),
    }  # fmt: skip
    made, other = describe(parts, (PHOTO, TEXT, GRID)), call("encoder", shown("text"))
    assert made.over("project", {"encoder": other}) == call("project", call("pool", other))
    assert made.over("encoder", {"encoder": other}) is other
    assert made.over("encoder", {"photo": shown("photo")}) == made.chain("encoder", shown("photo"))


def test_tokens_are_projected_one_by_one_as_their_vector_is():
    """Of a class token, which is the vector, the same; None where the projection reads another width or none is."""
    made, data = make("photo", pool="cls", embed_dim=5), batch()
    leaf = made.states.shown("photo")
    nodes = {"tokens": made.states.projected("photo", leaf), "z": made.states.embedding("photo", leaf)}
    found = compute(made, nodes | {"x": made.states.stream("photo", leaf)}, data)
    assert found["tokens"].shape == (3, 5, 5)
    np.testing.assert_allclose(found["tokens"][:, 0], found["z"], atol=1e-6)
    want = np.asarray(found["x"].x) @ np.asarray(made.t_project.linear.kernel[...])
    np.testing.assert_allclose(found["tokens"], want / np.linalg.norm(want, axis=-1, keepdims=True), atol=1e-5)
    assert (
        tiny.model(pool_queries=3).states.projected("image", leaf) is None
        and made.states.projected("text", leaf) is None
    )
