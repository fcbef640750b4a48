"""Picture files: only named decoders, limits before pixels, and broken metadata that does not cost whole pixels."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data_pipeline import picture_file
from data_pipeline.decoding import decode, kind_of
from data_pipeline.image import PICTURE_SUFFIXES, UNREAD_SUFFIXES, apply_crop, centre_crop

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def encoded(image=NOISE, format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def read(data: bytes) -> np.ndarray:
    return decode(io.BytesIO(data), "image", "here")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, data=b"", bits=8, kind=2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def after_header(data: bytes, more: bytes) -> bytes:
    return data[:33] + more + data[33:]


# -- Decoders and limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n",
        b"\x00\x00\x01\x00\x01\x00\x08\x08\x00\x00\x01\x00\x20\x00" + bytes(400),
        b"#FIG 3.2",
    ],
    ids=["PostScript", "icon", "text"],
)
def test_only_named_decoders_run(data, monkeypatch):
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: ran.append(a))
    with pytest.raises(ValueError, match=r"here: not a readable image \(of none of the formats that are read\)"):
        read(data)
    assert not ran


def test_every_suffix_has_a_decoder_here():
    """Those of Pillow's names for these; what is merely counted is nothing that is read."""
    Image.init()
    assert all(Image.EXTENSION[suffix] in picture_file.DECODERS for suffix in PICTURE_SUFFIXES)
    assert not set(PICTURE_SUFFIXES) & set(UNREAD_SUFFIXES)
    assert kind_of("A.JFIF") == kind_of("b.jpe") == "image" and kind_of("c.heic") == ""


@pytest.mark.parametrize(
    "data",
    [
        png(13000, 13000, zlib.compress(bytes(1800000))),
        png(8193, 8192),
        png(2_000_000, 3),
        b"P5 60000 60000 255\n",
        b"GIF89a"
        + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0)
        + struct.pack("<BHHHHBB", 44, 0, 0, 9, 9, 0, 8)
        + bytes(9),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 20000, 20000, 1, 24, 0, 0, 0, 0, 0, 0),
    ],
    ids=["bomb", "pixels", "aspect", "PGM", "GIF", "BMP"],
)
def test_limits_hold_before_pixels_are_decoded(data, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(ValueError, match=r"here: not a readable image \(.*(pixels|decompression bomb|broken|GIF)"):
        read(data)


def test_pictures_at_the_limits_are_read(monkeypatch):
    monkeypatch.setattr(picture_file, "MAX_PIXELS", 24 * 32)
    assert np.array_equal(read(encoded()), NOISE)
    monkeypatch.setattr(picture_file, "MAX_PIXELS", 24 * 32 - 1)
    with pytest.raises(ValueError, match=r"32 × 24 pixels, and at most 767 and sides of 1000 : 1 are read"):
        read(encoded())
    monkeypatch.undo()
    assert read(encoded(np.zeros((1, 1000, 3), np.uint8))).shape == (1, 1000, 3)


def test_of_several_frames_the_first_is_read():
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
        assert np.abs(read(buffer.getvalue()).astype(int) - 10).max() <= 2


def test_a_strip_is_cut_before_it_is_resized():
    """Resized whole, this one would be 64 × 6,400,000 pixels."""
    strip = np.tile(np.arange(100_000, dtype=np.uint32)[None, :, None] // 500, (1, 1, 3)).astype(np.uint8)
    assert (centre_crop(strip, 64) == 100).mean() > 0.4 and centre_crop(strip, 64).shape == (64, 64, 3)
    assert centre_crop(strip.transpose(1, 0, 2), (8, 64)).shape == (8, 64, 3)


def test_what_lies_left_of_a_window_is_not_seen():
    """A window that begins in the picture and ends beyond it: the part inside, then the fill."""
    image = np.arange(100, dtype=np.uint8).reshape(10, 10, 1)
    seen = apply_crop(image, (6, 7, 8, 6, 0), (8, 6), fill=255)
    assert np.array_equal(seen[:4, :3], image[6:, 7:]) and (seen[4:] == 255).all() and (seen[:, 3:] == 255).all()


# -- Metadata and damage ---------------------------------------------------------------------------------------------


def jpeg_with(segment: bytes, marker=0xE1, data=b"") -> bytes:
    data = data or encoded(format="JPEG")
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def bomb_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 5_000_000, zip=True)
    return encoded(pnginfo=info)


CRC = struct.pack(">I", 0)
METADATA = {
    "EXIF of nothing": encoded(exif=b"Exif\0\0nonsense"),
    "EXIF cut": encoded(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff"),
    "EXIF with a broken tag": encoded(exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\xff\xff\xff\x7f\0\0\0\x7f"),
    "ICC": encoded(icc_profile=b"no profile"),
    "checksum of a text": after_header(encoded(), chunk(b"tEXt", b"a\0b")[:-4] + CRC),
    "text cut": after_header(encoded(), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 99)[:9])),
    "text of 5 MB": bomb_text(),
    "physical size cut": after_header(encoded(), chunk(b"pHYs", b"\0\0")),
    "gamma cut": after_header(encoded(), chunk(b"gAMA", b"\0")),
    "unknown chunk": after_header(encoded(), chunk(b"abCd", b"?")),
    "something behind": encoded() + b"trailing" * 9,
    "a broken chunk before the end": encoded()[:-12] + chunk(b"tEXt", b"a\0b")[:-4] + CRC + chunk(b"IEND", b""),
}


@pytest.mark.parametrize("kind", METADATA)
def test_whole_pixels_are_read_whatever_lies_around_them(kind):
    assert np.array_equal(read(METADATA[kind]), NOISE)


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(b"Exif\0\0nonsense"),
        jpeg_with(b"Exif\0\0II*\0\xff\xff\xff\x7f"),
        jpeg_with(b"ICC_PROFILE\0\x05"),
        jpeg_with(b"MPF\0nonsense", 0xE2),
        jpeg_with(b"Photoshop 3.0\x008BIM\x04\x04\0\0", 0xED),
        jpeg_with(b"Adobe", 0xEE),
        encoded(format="JPEG") + b"trailing" * 9,
    ],
    ids=["EXIF", "EXIF far", "ICC", "MPF", "Photoshop", "Adobe", "behind"],
)
def test_whole_jpegs_are_read_whatever_lies_around_them(data):
    assert np.array_equal(read(data), read(encoded(format="JPEG")))


def test_a_jpeg_of_red_green_and_blue_keeps_its_colours_without_its_broken_profile():
    """Adobe's segment says that they are no brightness and chroma, for which the numbers 1, 2 and 3 else are taken."""
    whole = bytearray(encoded(format="JPEG", keep_rgb=True))
    frame, scan = whole.index(b"\xff\xc0") + 10, whole.index(b"\xff\xda") + 5
    whole[frame : frame + 9 : 3] = whole[scan : scan + 6 : 2] = b"\1\2\3"
    assert b"Adobe" in whole and np.abs(read(bytes(whole)).astype(int) - NOISE).mean() < 30
    assert np.array_equal(read(jpeg_with(b"ICC_PROFILE\0\x05", 0xE2, bytes(whole))), read(bytes(whole)))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_cut_pixels_are_an_error(format):
    data = encoded(format=format)
    with pytest.raises(ValueError, match=r"here: not a readable image .*restore the file"):
        read(data[: len(data) // 2])


def test_broken_pixels_between_broken_metadata_are_an_error():
    data = after_header(encoded(), chunk(b"tEXt", b"a\0b")[:-4] + CRC)
    with pytest.raises(ValueError, match="here: not a readable image"):
        read(data[:-400] + bytes(200) + data[-200:])


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(format, turn):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(format=format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    assert np.array_equal(read(data), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


# -- Arrays and other files ------------------------------------------------------------------------------------------


def npy(header: str, data=b"") -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + data


def saved(value, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, **options)
    return buffer.getvalue()


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }\n"


@pytest.mark.parametrize(
    "data, message",
    [
        (saved(np.array([{}], object), allow_pickle=True), "its objects are pickled"),
        (b"\x80\x04N.", "magic"),
        (npy(HUGE % "1000000000000,"), r"float64\[1000000000000\], which are 8,000,000,000,000 bytes, and 0 follow"),
        (npy(HUGE % "-1,", bytes(64)), r"float64\[-1\]"),
        (npy(HUGE % "99999999999, 99999999999, 99999999999"), "and 0 follow"),
        (saved(np.arange(9))[:-8], r"int64\[9\], which are 72 bytes, and 64 follow"),
        (npy(HUGE % "x,"), ""),
        (b"\x93NUMPY\x01\0", ""),
        (b"PK\x03\x04" + bytes(90), "magic"),
    ],
    ids=["objects", "pickle", "huge", "negative", "overflow", "cut", "header", "short", "zip"],
)
def test_arrays_are_believed_as_far_as_their_file_goes(data, message):
    with pytest.raises(ValueError, match=f"here: not a readable array .*{message}"):
        decode(io.BytesIO(data), "array", "here")


@pytest.mark.parametrize("value", [np.arange(9), np.zeros((0, 3)), np.float32(3), np.asfortranarray(np.eye(3))])
def test_whole_arrays_are_read(value):
    assert np.array_equal(decode(io.BytesIO(saved(value) + b"behind"), "array", "here"), value)


@pytest.mark.parametrize("kind", ["image", "array", "text", "json"])
def test_a_pipe_is_not_waited_for(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"here: not a readable \w+ \(no regular file\)"):
        decode(tmp_path / "pipe", kind, "here")


def test_files_that_are_cut_while_they_are_open_are_an_error(tmp_path):
    """Of a map into memory the process would end with SIGBUS: nothing is mapped."""
    pyarrow, written = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from data_pipeline.sources import parquet, tokens

    table = pyarrow.table({"a": np.random.default_rng(0).random(200_000)})
    written.write_table(table, tmp_path / "train-0.parquet", row_group_size=50_000)
    source = parquet.Source(tmp_path)
    assert "a" in source[0]
    os.truncate(tmp_path / "train-0.parquet", 500_000)
    with pytest.raises(ValueError, match="row group 3 is not readable"):
        source[199_999]
    writer = tokens.Writer(tmp_path / "store", tokenizers={}, licence="x")
    writer.write_split("train", ({"a": np.arange(2000) + i} for i in range(200)))
    writer.close()
    store = tokens.Source(tmp_path / "store")
    assert "a" in store[0]
    os.truncate(tmp_path / "store" / "train-00000.array_record", 50_000)
    with pytest.raises(ValueError, match="record 199 is not readable"):
        store[199]
