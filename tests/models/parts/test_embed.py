"""The embedding of any tokens: pixels among them, what is mixed, and what a decoder starts from."""

import numpy as np
import pytest
import tiny
from tiny import MODALITIES

from data_pipeline.spec import Modality
from pretrain.models.tokens import Shown, Whole, concat, whole

PIXELS = Modality("pixels", "pixels", (8, 8, 3), "p", patch=4, mean=(0.5,) * 3, std=(0.2,) * 3, targets=False)


def test_pixels_that_nobody_gave_are_no_zeros():
    modalities = (*MODALITIES, PIXELS)
    network, batch = tiny.model(modalities=modalities), tiny.batch(3, missing=0.0, modalities=modalities)

    def encode(tokens):
        return network.run("encoder", network.run("embed", Shown(tokens, {}))).x

    assert np.isnan(encode(whole(batch, "pixels", modalities))).all()
    assert np.isfinite(encode(whole(batch, "image", modalities))).all()
    with pytest.raises(ValueError, match=r"modality 'pixels': patch=0"):
        tiny.model(modalities=(*MODALITIES, tiny.replace(PIXELS, patch=0)))


def test_what_it_says_of_its_tokens():
    network, batch = tiny.model(), tiny.batch(4, missing=0.5)
    shown = Whole(("depth", "caption"), MODALITIES)(batch)
    stream, (tokens, _) = network.run("embed", shown), shown
    for own, given in zip(stream[1:4], (tokens.valid, tokens.modality, tokens.position)):
        np.testing.assert_array_equal(own, given)
    assert not stream.x[~tokens.valid].any() and not stream.placed[~tokens.valid].any() and not tokens.valid.all()
    where = np.asarray(stream.where)
    np.testing.assert_allclose(where[0, 4], [0.75, 0.5, 1])  # the second row of two, the second column of three
    assert not where[:, 6:].any()
    # Content and place add up, and the content of a token does not say where it stands.
    table = np.asarray(network.embed.tables["text"][...])
    captions = np.asarray(stream.x - stream.placed)[:, 6:]
    ids, valid = (np.asarray(batch["caption"][k]) for k in ("ids", "valid"))
    np.testing.assert_allclose(captions[valid], table[ids[valid]], atol=1e-5)


def test_a_share_of_another_examples_content():
    network, batch = tiny.model(), tiny.batch(3, missing=0.0)
    shown = Whole(("image",), MODALITIES)(batch)
    other = Shown(shown.tokens._replace(ids=shown.tokens.ids[::-1]), {})
    share = np.linspace(0, 1, 48).reshape(3, 16).astype(np.float32)
    mixed = network.run("embed", shown, other, share)
    one, two = (network.run("embed", s) for s in (shown, other))
    content = [s.x - s.placed for s in (one, two)]
    want = share[..., None] * content[0] + (1 - share[..., None]) * content[1] + one.placed
    np.testing.assert_allclose(mixed.x, want, atol=1e-5)
    np.testing.assert_array_equal(network.run("embed", shown, other, np.ones((3, 16), np.float32)).x, one.x)


def test_queries_start_from_the_mask_token_and_from_the_word_before():
    network, batch = tiny.model(tables="split"), tiny.batch(3, missing=0.0)
    asked = concat([whole(batch, n, MODALITIES) for n in ("image", "caption")])
    stream = network.run("embed", Shown(asked, {}), queries=True)
    content = np.where(asked.valid[..., None], stream.x - network.embed.place(asked, queries=True), 0)
    mask_token, table = network.embed.mask_token[...], np.asarray(network.embed.decoder_tables["text"][...])
    np.testing.assert_allclose(content[:, :16], np.broadcast_to(mask_token, (3, 16, 16)), atol=1e-5)
    want = np.where(asked.valid[:, 16:, None], table[asked.ids[:, 16:]], 0)
    np.testing.assert_allclose(content[:, 16:], want, atol=1e-5)
