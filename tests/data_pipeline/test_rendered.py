"""Texts as pictures of themselves: what is drawn, what a batch holds of it, and how a run finds who draws."""

import numpy as np
import pytest

from data_pipeline.pipeline import Encoder
from data_pipeline.spec import Modality
from data_pipeline.text_tokenizers.bitmap import SIDE, Tokenizer
from pretrain import build

DRAW = Tokenizer().encode


def config() -> dict:
    spec = dict(kind="rendered", shape=(64, 256), tokenizer="bitmap", targets=False)
    modalities = [dict(name=name, field=name, **spec) for name in ("text", "other")]
    towers = [dict(name="text", modalities=["text", "other"], dim=16, heads=2, depth=1)]
    return dict(
        steps=1, batch_size=2, modalities=modalities, data=dict(source="none"),
        model=dict(model="models.multimodal", embed_dim=8, towers=towers),
        objectives=dict(contrastive=dict(edges=[dict(a="text", b="other")])),
    )  # fmt: skip


def picture(text, patches=99):
    """`[SIDE, width]`."""
    return DRAW(text, patches).reshape(-1, SIDE, SIDE).swapaxes(0, 1).reshape(SIDE, -1)


def test_a_text_is_one_line_of_ink_of_as_many_patches_as_it_takes():
    rows = DRAW("key", 9)
    assert rows.shape == (2, 256) and rows.dtype == np.float32 and set(np.unique(rows)) == {0, 1}
    assert DRAW("", 9).shape == DRAW(" \n", 9).shape == (0, 256)
    assert len(DRAW("eight ch", 9)) == 3 and len(DRAW("eight chs", 9)) == 4, "6 pixels a character, 16 a patch"
    np.testing.assert_array_equal(DRAW("a long line of words", 3), DRAW("a long line of words", 99)[:3])
    np.testing.assert_array_equal(picture("one\ntwo"), picture("one two"))


def test_characters_are_drawn_where_they_stand():
    line = picture("bus bus")
    np.testing.assert_array_equal(line[:, :18], line[:, 24:42])
    assert not np.array_equal(picture("bus"), picture("bun"))


@pytest.mark.parametrize(
    "text, same",
    [("Łódz", "¤ódz"), ("ž", "z"), ("ﬁn", "fin"), ("cafe\u0301", "café"), ("日", "¤"), ("a\x00b\u200d", "ab")],
)
def test_what_is_not_latin_is_decomposed_or_unknown(text, same):
    np.testing.assert_array_equal(picture(text), picture(same))


def test_the_font_is_always_the_same():
    assert Tokenizer().digest == "c4010b2dcb43d800ed08305864d2dd4a421209451c3f7ed64a78d280b1f6f835"


def test_a_batch_holds_rows_and_which_of_them_show_something():
    m = Modality("t", "rendered", (5, 256), "name:de", tokenizer="bitmap", targets=False)
    encode = Encoder((m,), {"bitmap": Tokenizer()}, False)
    found = encode({"row": 0, "name": {"en": "key", "de": "Schlüssel"}}, None)["t"]
    assert found["valid"].tolist() == [True] * 4 + [False] and not found["vectors"][4].any()
    np.testing.assert_array_equal(found["vectors"][:4], DRAW("Schlüssel", 5))
    assert not encode({"row": 0, "name": {"en": "key"}}, None)["t"]["valid"].any()
    with pytest.raises(ValueError, match="modality 't': row 3: field='name' holds 'key'"):
        encode({"row": 3, "name": "key"}, None)


def test_a_run_draws_texts_of_no_example_alike():
    run = build.parse(config())
    found = build.write(run, "other", ["key", ""])
    np.testing.assert_array_equal(found["vectors"][0, :2], DRAW("key", 64))
    assert found["valid"].sum(1).tolist() == [2, 0] and found["vectors"].shape == (2, 64, 256)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(tokenizer=""), "tokenizer='': name who draws it, such as `bitmap`"),
        (dict(tokenizer="text"), "tokenizer='text': makes ids: take kind='sequence'"),
        (dict(shape=(5, 192)), r"shape=\(5, 192\): 'bitmap' draws patches of 256 pixels"),
        (dict(targets=True), "vectors can only be input: set targets=False"),
    ],
)
def test_a_spec_that_fits_no_picture_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Modality(
            **dict(name="t", kind="rendered", shape=(5, 256), field="t", tokenizer="bitmap", targets=False) | changes
        )


def test_ids_are_not_drawn():
    c = config()
    c["modalities"][0] = dict(
        name="text", kind="sequence", shape=(5,), field="text", vocab="v", vocab_size=9, tokenizer="bitmap"
    )
    with pytest.raises(ValueError, match="'text': vocab_size=9, but the bitmap tokenizer has 0"):
        build.text_tokenizers(build.parse(c))
