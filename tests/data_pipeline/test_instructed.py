"""Queries behind their instruction, positives and negatives as entries of a batch, and what is refused."""

import re

import numpy as np
import pytest

from data_pipeline import transforms
from data_pipeline.checks import check_transforms
from data_pipeline.pipeline import Encoder
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer
from data_pipeline.transforms import swapped_text
from data_pipeline.transforms.instructed import Transform

TEXT = TextTokenizer()
MODALITIES = (
    Modality("image", "pixels", (16, 16, 3), "image"),
    Modality("text", "sequence", (16,), "text", "text", 8000, tokenizer="text"),
)
RNG = np.random.default_rng(0)
CAT, DOG = (np.full((size, size, 3), 100 + size, np.uint8) for size in (16, 24))


def encoded(example, **keys):
    encode = Encoder(MODALITIES, {"text": TEXT}, True, (Transform(**keys),))
    return encode({"row": np.int64(5), **example}, RNG)


def words(entry):
    return TEXT.decode(entry["ids"][entry["valid"]]) if entry["valid"].any() else None


def test_a_query_stands_behind_its_instruction_and_what_it_asks_for_does_not():
    found = encoded(
        {"instruction": "find it:", "text": "a cat", "image/positive": CAT, "text/positive": "my cat",
         "text/negative1": "a dog", "image/negative2": DOG}, negatives=2,
    )  # fmt: skip
    assert (words(found["text"]), words(found["text/positive"])) == ("find it: a cat", "my cat")
    assert (words(found["text/negative1"]), words(found["text/negative2"])) == ("a dog", None), "and not the positive's"
    there = {name: bool(entry["valid"]) for name, entry in found.items() if name.startswith("image")}
    assert there == {"image": False, "image/positive": True, "image/negative1": False, "image/negative2": True}
    assert (found["image/negative2"]["pixels"] == 124).all(), "of another size than the picture of the query"


def test_a_picture_may_be_asked_about_without_a_text():
    found = encoded({"instruction": "name it", "image": CAT, "text/positive": "cat"}, negatives=0)
    assert words(found["text"]) == "name it" and set(found) == {"row", *("image", "text"), *found} and len(found) == 5
    assert words(encoded({"text": "cat", "image/positive": CAT})["text"]) == "cat", "or without an instruction"


def test_pictures_are_read_as_files_and_texts_are_not():
    fields, texts = Encoder(MODALITIES, {"text": TEXT}, True, (Transform(negatives=1),))._reads
    assert {"image", "image/positive", "image/negative1"} <= fields - texts
    assert {"instruction", "text", "text/positive", "text/negative1"} <= texts


def test_another_template_and_other_fields():
    one = Transform("question", "photo", "task", 1, "{text} ({instruction})")
    assert one.writes == tuple(f"{f}{end}" for end in ("", "/positive", "/negative1") for f in ("question", "photo"))
    found = one({"row": 0, "task": "find", "question": "cat", "photo/positive": CAT}, None)
    assert found["question"] == "cat (find)" and found["photo"] is None and found["question/negative1"] is None


@pytest.mark.parametrize(
    "example, message",
    [
        ({"instruction": "find", "text/positive": "cat"}, "row 5: its query is empty: give it 'text', 'image' or both"),
        (
            {"text": "cat", "text/positive": ""},
            "row 5: its positive is empty: give it 'text/positive', 'image/positive'",
        ),
        (
            {"text": ["cat", "kitty"], "text/positive": "x"},
            "row 5: text: ['cat', 'kitty'] is no text: give it one text",
        ),
    ],
)
def test_an_example_that_cannot_be_is_named(example, message):
    with pytest.raises(ValueError, match=re.escape(f"instructed: {message}")):
        encoded(example)


def test_settings_that_cannot_be_are_named():
    for keys, message in (
        (dict(negatives=-1), "negatives=-1: must not be negative"),
        (dict(text="keywords"), "text='keywords': is written of other fields"),
        (dict(template="{text}"), "template='{text}': needs {instruction} and {text}"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"instructed.{message}")):
            Transform(**keys)
    with pytest.raises(ValueError, match="but no modality is made from 'text'"):
        transforms.check((Transform(),), MODALITIES[:1])


def test_a_source_need_not_have_all_of_it():
    """As a folder in which no example has a second negative, or none a picture."""

    class Source(list):
        fields = frozenset({"text", "text/positive"})

    check_transforms((Transform(),), Source())
    with pytest.raises(ValueError, match="swapped_text reads the field 'title', which is unknown"):
        check_transforms((Transform(), swapped_text.Transform("title")), Source())
