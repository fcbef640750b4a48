"""Boxes follow the crop that is shown, and phrases the tokens that are made of their words."""

import numpy as np
import pytest

from data_pipeline import kinds
from data_pipeline.hf_text import HFTokenizer
from data_pipeline.pipeline import Encoder
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer
from data_pipeline.transforms import crop
from data_pipeline.view import VIEW, View

BOXES = Modality("boxes", "boxes", (3, 4), "boxes")
PICTURE = Modality("picture", "pixels", (16, 16, 3), "picture", targets=False)
CAPTION, SPANS = "red umbrella and blue bus", [[(0, 12)], [(17, 25)], [(0, 3), (17, 21)]]


def read(spec, value, **more):
    return kinds.of(spec).read(spec, {"row": 7, spec.field: value} | more, None, None)


@pytest.mark.parametrize(
    "view, expected",
    [
        (View(frame=(100, 200), aspect=1.0), (0.0, 0.2, 0.5, 0.6)),  # the square at the centre
        (View(frame=(100, 200), crop=np.array([0, 0, 100, 200, 0])), (0.25, 0.2, 0.5, 0.6)),
        (View(frame=(100, 200), crop=np.array([0, 0, 100, 200, 1])), (0.5, 0.2, 0.75, 0.6)),
        (View(frame=(100, 200), crop=np.array([40, 60, 40, 80, 0])), (0.0, 0.0, 0.5, 0.5)),  # cut
        (View(frame=(100, 200), crop=np.array([-50, 0, 200, 400, 0])), (0.125, 0.35, 0.25, 0.55)),  # it leaves it
        (View(), (0.25, 0.2, 0.5, 0.6)),
    ],
)  # fmt: skip
def test_boxes_are_of_what_is_shown(view, expected):
    np.testing.assert_allclose(read(BOXES, [[0.25, 0.2, 0.5, 0.6]], **{VIEW: view})[0], expected, atol=1e-6)


def test_a_box_lies_where_its_object_is_drawn_however_it_is_cropped():
    """A black object on white, cropped at random and mirrored: the box is where the black is, up to a pixel."""
    encode = Encoder((PICTURE, BOXES), {}, True, (crop.Transform(min_scale=0.3, flip=0.5),))
    lost = 0
    for i in range(60):
        rng, picture = np.random.default_rng(i), np.full((64, 96, 3), 255, np.uint8)
        top, left = rng.integers(0, 40, 2)
        picture[top : top + 20, left : left + 24] = 0
        box = [left / 96, top / 64, (left + 24) / 96, (top + 20) / 64]
        found = encode({"row": i, "picture": picture, "boxes": [box]}, rng)
        dark = found["picture"]["pixels"][..., 0] < 128
        if not found["boxes"]["valid"][0]:
            lost += 1
            assert dark.mean() < 0.02 and not found["boxes"]["vectors"].any()
            continue
        down, across = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
        if len(down) > 1:
            seen = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1]) / 16
            np.testing.assert_allclose(found["boxes"]["vectors"][0], seen, atol=1.2 / 16)
    assert lost < 30


@pytest.mark.parametrize(
    "value", [[[0.5, 0.1, 0.5, 0.2]], [[0.1, 0.2, 0.3, 1.2]], [[-0.1, 0, 1, 1]], [["a"] * 4], "red"]
)
def test_wrong_boxes_name_the_row_and_what_is_wanted(value):
    with pytest.raises(ValueError, match=r"modality 'boxes': row 7 holds boxes=.*: it must be rows"):
        read(BOXES, value)


def test_too_many_boxes_none_and_a_wrong_shape():
    assert read(BOXES, [[0, 0, 0.5, 0.5]] * 5).shape == (3, 4)
    assert read(BOXES, []).shape == (0, 4) and read(BOXES, None) is None
    with pytest.raises(ValueError, match=r"'b': shape=\(3, 5\): must be \(boxes, 4\)"):
        Modality("b", "boxes", (3, 5), "b")


def phrases(length=12, tokenizer="text"):
    return Modality("phrases", "phrases", (length, 3), "phrases", tokenizer=tokenizer)


def encoded(spec, tokenizer, text=CAPTION, spans=SPANS):
    encode = Encoder((spec,), {spec.tokenizer: tokenizer}, False)
    return encode({"row": 7, "phrases": {"text": text, "spans": spans}}, np.random.default_rng(0))["phrases"]


def test_phrases_are_the_tokens_of_their_words():
    tokenizer = TextTokenizer()
    found, ids = encoded(phrases(), tokenizer), tokenizer.encode(CAPTION, 12)
    assert found["valid"].sum() == len(ids) < 12 and found["vectors"].shape == (12, 3)
    said = [tokenizer.decode(np.array(ids)[np.flatnonzero(column)]) for column in found["vectors"].T]
    assert said == ["red umbrella", "blue bus", "red blue"], "the end of a text is no word"


def test_phrases_that_are_cut():
    whole, cut = encoded(phrases(), TextTokenizer()), encoded(phrases(4), TextTokenizer())
    np.testing.assert_array_equal(cut["vectors"], whole["vectors"][:4])
    assert cut["valid"].all()


def test_phrases_of_a_tokenizer_that_begins_texts_with_a_token(tmp_path):
    pytest.importorskip("tokenizers.models")  # `tokenizers` alone would find a folder of tests
    import tokenizers

    words = {w: i for i, w in enumerate(["[CLS]", "[SEP]", "[UNK]", "red", "umb", "##rella", "and", "blue", "bus"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    made.save(path := str(tmp_path / "words.json"))
    found = encoded(phrases(tokenizer=path), HFTokenizer(path))  # [CLS] red umb ##rella and blue bus [SEP]
    assert found["valid"].sum() == 8
    assert [np.flatnonzero(column).tolist() for column in found["vectors"].T] == [[1, 2, 3], [5, 6], [1, 5]]


@pytest.mark.parametrize(
    "value",
    [{"text": CAPTION}, {"text": CAPTION, "spans": [[(3, 3)]]}, {"text": CAPTION, "spans": [[(0, 99)]]},
     {"text": 3, "spans": []}, {"text": CAPTION, "spans": [[(0, 3, 5)]]}],
)  # fmt: skip
def test_wrong_phrases_name_the_row_and_what_is_wanted(value):
    with pytest.raises(ValueError, match=r"modality 'phrases': row 7 holds phrases=.*: it must be .*spans"):
        read(phrases(), value)


def test_phrases_name_their_tokenizer():
    with pytest.raises(ValueError, match="'p': tokenizer='': name that of the text"):
        Modality("p", "phrases", (3, 2), "p")
