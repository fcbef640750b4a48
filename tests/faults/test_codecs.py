"""Boxes, numbers and colours that cannot be are refused by the codecs, with the value, the range and the row."""

import dataclasses

import numpy as np
import pytest

from data_pipeline.image import palette_text
from data_pipeline.pipeline import Encoder
from data_pipeline.spec import Modality
from data_pipeline.structured import (
    GREATEST,
    METADATA,
    Human,
    Point,
    crop_boxes,
    decode_detections,
    decode_humans,
    decode_instances,
    decode_metadata,
    encode_detections,
    encode_humans,
    encode_instances,
    encode_metadata,
)  # fmt: skip

NAN, INF = float("nan"), float("inf")
PERSON = Human((0, 0, 1, 1), (1,) * 8, tuple(np.eye(3).ravel()), (0, 0, 0), (0,) * 10)


@pytest.mark.parametrize("box", [(0.5, 0, 0.4, 1), (0, 0.5, 1, 0.4), (NAN, 0, 1, 1), (0, 0, INF, 1)])
def test_boxes_that_end_before_they_begin(box):
    message = r"box \[.*\]: must be \(xmin, ymin, xmax, ymax\), ascending"
    for encode in (
        lambda: encode_detections([(0, 0, 1, 1), box], ["a", "b"]),
        lambda: encode_humans([dataclasses.replace(PERSON, box=box)]),
        lambda: encode_instances([Point((0, 0), ((box, (0,) * 16),))]),
        lambda: crop_boxes([box], (0, 0, 8, 8), (8, 8)),
    ):
        with pytest.raises(ValueError, match=message):
            encode()
    assert encode_detections([(0.5, 0, 0.5, 1)], ["a"]) == "v0=500 v1=0 v2=500 v3=999 a"


@pytest.mark.parametrize("box", [(-0.001, 0, 1, 1), (0, 0, 1.001, 1)])
def test_boxes_beyond_the_image(box):
    with pytest.raises(ValueError, match="coordinates are fractions of the image, 0…1; crop first"):
        encode_detections([box], ["a"])


@pytest.mark.parametrize("crop, size", [((0, 0, 0, 8), (8, 8)), ((0, 0, 8, -8), (8, 8)), ((0, 0, 8, 8), (0, 8))])
def test_crops_without_a_pixel(crop, size):
    with pytest.raises(ValueError, match=r"crop=.* of an image of size=.*: heights and widths are above 0"):
        crop_boxes([(0, 0, 1, 1)], crop, size)


@pytest.mark.parametrize("name", [name for name, _ in METADATA])
@pytest.mark.parametrize("value", [NAN, INF, -INF, "3", None, True])
def test_metadata_that_is_no_finite_number(name, value):
    with pytest.raises(ValueError, match=rf"metadata {name}={value!r}: must be a number of "):
        encode_metadata({name: value})


@pytest.mark.parametrize("name", [name for name, _ in METADATA if name != "aesthetic_score"])
def test_metadata_below_what_can_be(name):
    least = 1 if name.startswith("original") else 0
    assert encode_metadata({name: least}).endswith("v0=0")
    with pytest.raises(ValueError, match=rf"metadata {name}={least - 0.5}: must be a number of {least}…"):
        encode_metadata({name: least - 0.5})


@pytest.mark.parametrize("name", GREATEST)
def test_metadata_above_what_can_be(name):
    last = {"original_width": 999, "original_height": 999, "watermark_score": 1}.get(name, 49)
    assert encode_metadata({name: GREATEST[name]}).endswith(f"v0={last}")
    with pytest.raises(ValueError, match=rf"metadata {name}=.*: must be a number of [01]…{GREATEST[name]:g}"):
        encode_metadata({name: GREATEST[name] * 1.01})


def test_what_can_be_beyond_a_scale_of_4m_gets_its_last_bin():
    assert encode_metadata({"n_humans": 1500, "colorfulness": 180, "contrast": 127.5, "occlusion_score": 0.4}) == (
        "v1=5 v0=999 v1=9 v0=49 v1=11 v0=49 v1=18 v0=49"
    )
    tall = dataclasses.replace(PERSON, shape=(3.5,) * 10, camera=(25, 0, 0))
    assert decode_humans(encode_humans([tall]))[0].shape == pytest.approx((3.0,) * 10, abs=0.01)


@pytest.mark.parametrize("part, value", [("camera", NAN), ("shape", INF), ("orientation", 1.1), ("orientation", -2)])
def test_humans_that_cannot_be(part, value):
    numbers = (value, *getattr(PERSON, part)[1:])
    with pytest.raises(ValueError, match=r"of a human is \[.*\]: must be finite, of a rotation"):
        encode_humans([dataclasses.replace(PERSON, **{part: numbers})])


@pytest.mark.parametrize(
    "decode, text, message",
    [
        (decode_detections, "v0=1000 v1=0 v2=1 v3=1 cat", "does not fit"),
        (decode_metadata, "v1=0 v0=1000", "is no list of"),
        (decode_metadata, "v1=19 v0=2", "watermark_score has the bins 0…1, not 2"),
        (decode_metadata, "v1=10 v0=50", "brightness has the bins 0…49, not 50"),
        (decode_instances, "point v0=1000 v1=0 none", "does not fit"),
        (decode_instances, f"point v0=1 v1=0 polygon v0=0 v1=0 v2=1 v3=1{' v0=512' * 16}", "it does not fit"),
    ],
)
def test_texts_of_no_token_are_refused(decode, text, message):
    with pytest.raises(ValueError, match=message):
        decode(text)


@pytest.mark.parametrize("colours", [[[0, 0, 256]], [[-1, 0, 0]], [[0.5, 0, 0]], [[NAN, 0, 0]]])
def test_colours_that_are_no_bytes(colours):
    with pytest.raises(ValueError, match=r"colours=.*: colours are whole numbers of 0..255"):
        palette_text(colours)


def test_the_row_is_named():
    class Text:
        def encode(self, text, length):
            return [1]

    m = Modality("metadata", "sequence", (8,), "metadata", "t", 9, tokenizer="text")
    with pytest.raises(
        ValueError, match=r"modality 'metadata': row 7: metadata brightness=300: must be a number of 0…255"
    ):
        Encoder((m,), {"text": Text()}, False)({"row": 7, "metadata": {"brightness": 300}}, None)
    m = Modality("v", "vectors", (2, 3), "v", targets=False)
    with pytest.raises(ValueError, match=r"modality 'v': row 7 holds v that is not finite"):
        Encoder((m,), {}, False)({"row": 7, "v": [[0, 1, NAN]]}, None)
