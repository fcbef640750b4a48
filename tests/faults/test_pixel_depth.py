"""Pixels of any depth: labels are exact in every mode, continuous maps keep their scale, pictures become 8 bits."""

import io
import json
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from tars import write_tar

from data_pipeline.checks import check_labels
from data_pipeline.decoding import decode
from data_pipeline.image import palettes
from data_pipeline.pipeline import Encoder, train_batches
from data_pipeline.sources import files, parquet, tar_tree, webdataset
from data_pipeline.spec import Modality
from data_pipeline.stored import as_picture, numbers

CLASSES = np.arange(12, dtype=np.uint8).reshape(3, 4)
MAP = Modality("map", "pixels", (3, 4, 1), "map", vocab_size=12, resample="nearest")
PHOTO = Modality("photo", "pixels", (3, 4, 3), "map")


def depth(low, high, channels=1, resample="nearest"):
    return Modality("depth", "pixels", (3, 4, channels), "map", range=(low, high), resample=resample)


def encoded(image: Image.Image, format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def indexed(classes=CLASSES) -> Image.Image:
    """A palette whose colours say nothing of the classes."""
    image = Image.fromarray(classes).convert("L")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return image


def read(data: bytes) -> np.ndarray:
    return decode(io.BytesIO(data), "image", "here")


def made(value, m: Modality) -> np.ndarray:
    return Encoder((m,), {}, False)({"row": 3, "map": value}, np.random.default_rng(0))[m.name]["pixels"]


def grey_png(bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits, which Pillow does not write, of 0, 1, 2, … in each row."""
    rows = [[n % 2**bits for n in range(4)]] * 3
    packed = [sum(n << 8 - bits * (i + 1) for i, n in enumerate(r)) if bits < 4 else None for r in rows]
    lines = b"".join(b"\0" + (bytes([p]) if p is not None else bytes([0x01, 0x23])) for p in packed)
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


SIXTEEN = CLASSES.astype(np.uint16)
LABELS = {
    "L": encoded(Image.fromarray(CLASSES)),
    "P": encoded(indexed()),
    "P with transparency": encoded(indexed(), transparency=3),
    "I;16": encoded(Image.fromarray(SIXTEEN)),
    "I;16 TIFF": encoded(Image.fromarray(SIXTEEN), "TIFF"),
    "I": encoded(Image.fromarray(CLASSES.astype(np.int32)), "TIFF"),
    "F": encoded(Image.fromarray(CLASSES.astype(np.float32)), "TIFF"),
    "RGB of grey": encoded(Image.fromarray(CLASSES).convert("RGB")),
    "LA, opaque": encoded(Image.fromarray(CLASSES).convert("LA")),
    "RGBA, opaque": encoded(Image.fromarray(CLASSES).convert("RGBA")),
    "PPM of grey": b"P6 4 3 255\n" + CLASSES.repeat(3).tobytes(),
    "GIF": encoded(indexed(), "GIF", optimize=False),
    "BMP": encoded(indexed(), "BMP"),
    "PGM of 12 classes": b"P5 4 3 11\n" + CLASSES.tobytes(),
    "PGM of 16 bits": b"P5 4 3 4000\n" + CLASSES.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("mode", LABELS)
def test_labels_are_exact_in_any_mode(mode):
    assert np.array_equal(made(read(LABELS[mode]), MAP)[..., 0], CLASSES)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_less_than_8_bits(bits):
    want = np.arange(4) % 2**bits
    image = read(grey_png(bits))
    assert (made(image, MAP)[..., 0] == want).all()
    assert np.array_equal(image[..., 0], np.tile(want * (255 // (2**bits - 1)), (3, 1)))  # and how it looks


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int64, np.float32])
def test_labels_that_numpy_saved(tmp_path, dtype):
    values = CLASSES % 2 if dtype is bool else CLASSES
    for number, array in enumerate((values.astype(dtype), values.astype(dtype)[..., None])):
        np.save(tmp_path / f"{number}.npy", array)
        found = decode(tmp_path / f"{number}.npy", "array", "here")
        assert np.array_equal(made(found, MAP)[..., 0], values)


@pytest.mark.parametrize("source", ["files", "webdataset", "tar_tree", "parquet"])
def test_labels_are_exact_from_every_source(tmp_path, source):
    names = ("P", "I;16")
    if source == "files":
        for i, name in enumerate(names):
            (tmp_path / f"{i}.png").write_bytes(LABELS[name])
        (tmp_path / "train.jsonl").write_text("".join(json.dumps({"map": f"{i}.png"}) + "\n" for i in range(2)))
        found = files.Source(tmp_path)
    elif source == "webdataset":
        write_tar(tmp_path / "train-0.tar", {f"{i}.map.png": LABELS[name] for i, name in enumerate(names)})
        found = webdataset.Source(tmp_path)
    elif source == "tar_tree":
        write_tar(tmp_path / "train" / "map" / "0.tar", {f"{i}.png": LABELS[name] for i, name in enumerate(names)})
        found = tar_tree.Source(tmp_path)
    else:
        pyarrow, written = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        table = pyarrow.table({"map": [{"bytes": LABELS[name], "path": "x.png"} for name in names]})
        written.write_table(table, tmp_path / "train-0.parquet")
        found = parquet.Source(tmp_path)
    check_labels((MAP,), found)
    for i in range(2):
        assert np.array_equal(made(found[i]["map"], MAP)[..., 0], CLASSES)


@pytest.mark.parametrize(
    "image, message",
    [
        (indexed(CLASSES + 240), r"has map of \[240, 241, 242, 243, 244\]: must be 0…11, or 255"),
        (Image.fromarray(CLASSES + 1), r"has map of \[12\]: must be 0…11"),
        (Image.fromarray(SIXTEEN + 256), r"\[256, 257"),
        (Image.fromarray((CLASSES * 0.5).astype(np.float32)), r"has map of \[0.5, 1.5"),
        (Image.fromarray(CLASSES.astype(np.int32) - 1), r"has map of \[-1\]"),
        (Image.fromarray(CLASSES).convert("CMYK"), "of mode CMYK: one number a pixel is wanted"),
        (Image.new("RGB", (4, 3), (1, 2, 3)), "of mode RGB: one number"),
        (Image.new("LA", (4, 3), (1, 128)), "of mode LA: one number"),
    ],
    ids=["P", "L", "I;16", "F", "I", "CMYK", "RGB", "LA"],
)
def test_labels_outside_the_classes_and_modes_without_numbers(image, message):
    found = read(encoded(image, "TIFF" if image.mode in ("I", "F", "CMYK") else "PNG"))

    class Source:
        def __len__(self):
            return 1

        def __getitem__(self, _):
            return {"row": 0, "map": found}

    with pytest.raises(ValueError, match=f"labels 'map': row 0 .*{message}"):
        check_labels((MAP,), Source())
    with pytest.raises(ValueError, match=message):
        made(found, MAP)
    with pytest.raises(ValueError, match=message):  # maps that a tokenizer learns from, too, before the first batch
        train_batches(Source(), Encoder((MAP,), {}, True), batch_size=1, seed=0)


def test_no_label_in_16_bits():
    values = SIXTEEN.copy()
    values[0, 0] = 255
    assert made(read(encoded(Image.fromarray(values))), MAP)[0, 0, 0] == 255


# -- Continuous maps -------------------------------------------------------------------------------------------------


def test_millimetres_keep_their_scale():
    metres = np.linspace(0, 4095, 12).round().astype(np.uint16).reshape(3, 4)
    image = read(encoded(Image.fromarray(metres)))
    want = np.rint(metres / 4095 * 255)
    assert len(np.unique(want)) == 12
    for resample in ("nearest", "bicubic"):
        assert np.array_equal(made(image, depth(0, 4095, resample=resample))[..., 0], want)
    assert np.array_equal(
        made(image, depth(1000, 2000))[..., 0], np.rint(np.clip((metres - 1000.0) / 1000, 0, 1) * 255)
    )
    assert as_picture(image).max() == 16, "as a picture, whose white is 65,535, it is nearly black"


@pytest.mark.parametrize("mode", ["I;16", "I", "RGB", "npy"])
def test_three_channels_hold_the_very_numbers(mode):
    values = np.array([[0, 1, 255, 256], [257, 1000, 4095, 65535], [10, 20, 30, 40]])
    image = {
        "I;16": lambda: read(encoded(Image.fromarray(values.astype(np.uint16)))),
        "I": lambda: read(encoded(Image.fromarray(values.astype(np.int32)), "TIFF")),
        "RGB": lambda: np.stack([values >> 16, values >> 8 & 255, values & 255], axis=-1).astype(np.uint8),
        "npy": lambda: values,
    }[mode]()
    digits = made(image, depth(0, 256**3 - 1, channels=3)).astype(int)
    assert np.array_equal(digits @ [65536, 256, 1], values)


def test_floats_have_a_range_or_are_refused():
    metres = np.linspace(-1, 6, 12, dtype=np.float32).reshape(3, 4)
    image = read(encoded(Image.fromarray(metres), "TIFF"))
    assert np.array_equal(made(image, depth(0, 5))[..., 0], np.rint(np.clip(metres / 5.0, 0, 1) * 255))
    with pytest.raises(
        ValueError, match=r"modality 'photo': row 3: map is float32\[3, 4, 1\] of mode F.*state the range"
    ):
        made(image, PHOTO)
    metres[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"row 3: map has pixels that are no number \(NaN\)"):
        made(metres, depth(0, 5))


EXACT = Modality("a", "pixels", (3, 4, 1), "map", resample="nearest")


@pytest.mark.parametrize(
    "image, m, message",
    [
        (
            Image.fromarray(SIXTEEN),
            EXACT,
            r"uint8\[3, 4, 1\] of mode I;16, and resample='nearest' with 1 channels keeps",
        ),
        (indexed(), EXACT, r"uint8\[3, 4, 3\] of mode P, and resample='nearest' with 1 channels keeps numbers"),
        (indexed(), depth(0, 9), "uint8.* of mode P: the indices of a palette are no quantity"),
        (Image.new("RGB", (4, 3), (1, 2, 3)), depth(0, 9), "uint8.* of mode RGB: one number a pixel is wanted"),
    ],
    ids=["I;16", "P", "P of a range", "RGB of a range"],
)
def test_what_nothing_says_is_refused_with_its_mode(image, m, message):
    with pytest.raises(ValueError, match=rf"modality '{m.name}': row 3: map is {message}"):
        made(read(encoded(image)), m)


@pytest.mark.parametrize(
    "span, changes",
    [((5, 5), {}), ((1,), {}), ((0, np.inf), {}), ((0, 9), {"vocab_size": 3}), ((0, 9), {"shape": (3, 4, 3)})],
)
def test_ranges_that_make_no_sense(span, changes):
    with pytest.raises(ValueError, match=r"modality 'd': range="):
        Modality(**{"name": "d", "kind": "pixels", "shape": (3, 4, 1), "field": "map", "range": span, **changes})


# -- Pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, format, want",
    [
        (Image.new("1", (4, 3), 1), "PNG", 255),
        (Image.new("L", (4, 3), 77), "PNG", 77),
        (Image.new("LA", (4, 3), (100, 0)), "PNG", 255),
        (Image.fromarray(np.full((3, 4), 257 * 9, np.uint16)), "PNG", 9),
        (Image.fromarray(np.full((3, 4), 65535, np.int32)), "TIFF", 255),
        (Image.fromarray(np.full((3, 4), 0, np.int32)), "TIFF", 0),
        (indexed(np.full((3, 4), 7, np.uint8)).convert("RGB").quantize(4), "PNG", None),
    ],
    ids=["1", "L", "LA", "I;16", "I", "I of zeros", "P"],
)
def test_every_mode_is_a_colour_picture(image, format, want):
    found = made(read(encoded(image, format)), PHOTO)
    colours = np.asarray(image.convert("RGB")) if want is None else np.full((3, 4, 3), want)
    assert np.array_equal(found, colours)
    assert all(part.shape[1] == 3 for part in palettes(found))


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_16_bits_are_no_picture_but_may_be_a_map(value):
    image = read(encoded(Image.fromarray(np.full((3, 4), value, np.int32)), "TIFF"))
    with pytest.raises(ValueError, match=r"map is int32\[3, 4, 1\] of mode I"):
        made(image, PHOTO)
    assert (made(image, depth(-1, 65536)) == (0 if value < 0 else 255)).all()


def tiff(bits: int, photometric: int, data: bytes) -> bytes:
    """An uncompressed grey TIFF of 2 × 1 pixels."""
    tags = [
        (256, 2),
        (257, 1),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(data)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 273 else 3, 1, value) for tag, value in tags)
    block = data + bytes(-len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(block)) + block + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_12_bits():
    image = read(tiff(12, 1, bytes([0x00, 0x7F, 0xFF])))  # 7 and 4095
    assert image[..., 0].tolist() == [[0, 255]] and numbers(image)[..., 0].tolist() == [[7, 4095]]


@pytest.mark.parametrize("bits, mode", [(1, "1;I"), (4, "L;4I"), (8, "L;I")])
def test_where_white_is_zero_nothing_says_which_number_is_meant(bits, mode):
    image = read(tiff(bits, 0, bytes(2)))
    assert (as_picture(image) == 255).all()
    with pytest.raises(ValueError, match=f"of mode {mode}: one number a pixel is wanted"):
        numbers(image)


def test_arrays_of_16_bits_and_without_channels_are_pictures():
    for array in (np.full((3, 4), 257 * 9, np.uint16), np.full((3, 4, 1), 9, np.uint8), np.full((3, 4), 9, np.uint8)):
        assert (made(array, PHOTO) == 9).all()
    assert (made(np.ones((3, 4), bool), PHOTO) == 255).all()
    assert (made(np.full((3, 4, 4), (9, 9, 9, 0), np.uint8), PHOTO) == 255).all()
    with pytest.raises(ValueError, match=r"row 3: map is int64\[3, 4\]: a picture is uint8"):
        made(np.full((3, 4), 9), PHOTO)


def test_numbers_are_lost_never_guessed():
    """What is cut from a picture of indices is no map any more; what travels to another process is."""
    image = read(LABELS["P"])
    with pytest.raises(ValueError, match="of mode P: one number a pixel is wanted"):
        numbers(image[:2])
    assert np.array_equal(numbers(pickle.loads(pickle.dumps(image))), CLASSES[..., None])
