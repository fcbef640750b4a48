"""Texts as they are found: what is a text, a list or a number is taken for what it is, or refused with its row."""

import codecs
import json

import numpy as np
import pytest
from small_sources import SOURCES, write
from tars import write_tar

from data_pipeline.checks import check_labels
from data_pipeline.mixture import Part
from data_pipeline.mixture import Source as Mixture
from data_pipeline.pipeline import Encoder, eval_batches, train_batches
from data_pipeline.plain_text import NESTED, as_text, parse_json, well_formed
from data_pipeline.sources import tokens
from data_pipeline.sources.files import Source
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer, render

TEXT = TextTokenizer()
CAPTION = Modality("caption", "sequence", (16,), "caption", "text", 8000, tokenizer="text")
IMAGE = Modality("image", "pixels", (8, 8, 3), "image", patch=4, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False)
GRID = Modality("grid", "grid", (2, 2), "code", "code", 9, tokenizer="rgb")
IDS = Modality("ids", "sequence", (4,), "ids", "ids", 9, tokenizer="stored")
VECTORS = Modality("vectors", "vectors", (2, 3), "vectors", targets=False)
CLASS = Modality("class", "labels", (1,), "label", vocab_size=2, classes=("a", "b"))


def lines(folder, *rows, split="train", raw=b""):
    data = raw + b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
    (folder / f"{split}.jsonl").write_bytes(data)
    return Source(folder, split)


def encode(spec, example, train=False):
    encoder = Encoder((spec,), {"text": TEXT}, train)
    return encoder({"row": 3} | example, np.random.default_rng(0))[spec.name]


def read(example, train=False):
    got = encode(CAPTION, example, train)
    return TEXT.decode(got["ids"][got["valid"]])


# -- A text or a list ------------------------------------------------------------------------------------------------


def test_a_text_of_keywords_is_one():
    for seed in range(5):
        assert render("keywords", {"keywords": "red, bus"}, np.random.default_rng(seed)) == "red, bus"
    assert sorted(render("keywords", {"keywords": ["red", "bus"]}, np.random.default_rng(0)).split(", ")) == [
        "bus",
        "red",
    ]
    assert render("keywords", {"keywords": ["red", None, "", 7]}) == "red, 7"


@pytest.mark.parametrize(
    "field, value",
    [
        ("keywords", {"red": 1}), ("keywords", [["red"]]), ("name:en", "a bus"), ("name:random", ["a bus"]),
        ("name:en", {"en": {"a": 1}}), ("group", {"a": 1}), ("subgroup", True), ("palette", "red"),
        ("det", {"boxes": []}), ("det", ["a"]), ("det", "a bus"), ("metadata", [1]), ("human_poses", "two"),
        ("sam_instance", 5), ("caption", {"en": "a"}), ("caption", [["a"]]), ("caption", [True]),
        ("caption", float("inf")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("train", [False, True])
def test_what_is_no_text_is_refused_with_its_row_and_field(field, value, train):
    spec = Modality("words", "sequence", (16,), field, "text", 8000, tokenizer="text")
    key = {"palette": "palettes"}.get(field, field.partition(":")[0])
    with pytest.raises(ValueError, match=rf"modality 'words': row 3: .*{key}"):
        encode(spec, {key: value}, train)


@pytest.mark.parametrize(
    "value, want",
    [
        (2021, "2021"), (2.5, "2.5"), (None, ""), (float("nan"), ""), ("", ""), ([], ""), ([None, "a"], "a"),
        ([3, None], "3"), (np.array(["a"]), "a"), (np.float32(0.5), "0.5"), (10**400, "1" + "0" * 14),
    ],
)  # fmt: skip
def test_numbers_and_nulls(value, want):
    assert read({"caption": value}).startswith(want) and bool(read({"caption": value})) == bool(want)
    assert read({"caption": value}, train=True).startswith(want)


@pytest.mark.parametrize(
    "spec, value",
    [
        (GRID, "1234"), (GRID, 5), (GRID, []), (GRID, {"a": 1}), (GRID, [1, 2, 3]), (GRID, [[1, 2, 3]]),
        (GRID, np.zeros((2, 3), int)), (GRID, [[1.0, 2.0, 3.0, 4.0]]), (GRID, np.zeros(8, int)), (GRID, [[1, 2, 3, 9]]),
        (IDS, 5), (IDS, "12"), (IDS, {"a": 1}), (IDS, np.zeros((2, 2), int)), (IDS, [[1], [2]]), (IDS, [[1], [2, 3]]),
        (VECTORS, "abc"), (VECTORS, [[1, 2], [3]]), (VECTORS, [1, 2]), (VECTORS, [1, None, 2]), (VECTORS, {"a": 1}),
        (VECTORS, [1, 2, float("inf")]), (CLASS, ["a"]), (CLASS, {"a": 1}), (CLASS, 0),
    ],
)  # fmt: skip
def test_ids_and_numbers_of_another_form_are_refused(spec, value):
    with pytest.raises(ValueError, match=rf"'{spec.name}': .*row 3.*(tokenize again|mend|store its ids|shape|tak)"):
        encode(spec, {spec.field: value})


def test_ids_of_rows_of_one_batch_are_looked_at_together():
    encoder = Encoder((IDS,), {}, False)
    for other in ([[1, 2]], [1.5], "x"):
        with pytest.raises(ValueError, match=r"modality 'ids': .*row 1"):
            encoder.collate([encoder.choose({"row": row, "ids": ids}, None) for row, ids in enumerate(([1, 2], other))])


def test_ids_without_crops_are_those_of_the_only_one():
    for value in ([1, 2, 3, 4], np.arange(1, 5), [[1, 2, 3, 4]], [[[1, 2], [3, 4]]]):
        assert encode(GRID, {"code": value})["ids"].tolist() == [1, 2, 3, 4]


def test_lists_of_names_that_options_take_may_be_one(tmp_path):
    write("tar_tree", tmp_path)
    assert SOURCES["tar_tree"](tmp_path, modalities="caption").fields == {"caption"}
    source = lines(tmp_path, {"caption": "a.jpg"})
    assert "a.jpg" in Source(tmp_path, texts="caption")[0].values() and source.fields == {"caption"}


# -- A caption that looks like a file --------------------------------------------------------------------------------


def test_a_caption_is_one_although_it_looks_like_a_file(tmp_path):
    write("lines", tmp_path)
    rows = [json.loads(line) | {"caption": f"DSC_{i}.jpg"} for i, line in enumerate(open(tmp_path / "train.jsonl"))]
    source = lines(tmp_path, *rows)
    with pytest.raises(
        FileNotFoundError, match=r"line 1: caption='DSC_0.jpg': no such file.* name it in data.options.tex"
    ):
        source[0]
    assert Source(tmp_path, texts=("caption",))[1]["caption"] == "DSC_1.jpg"
    encoder = Encoder((CAPTION, IMAGE), {"text": TEXT}, False)
    for opened in (source, Mixture([Part(source), Part(source, fields={"caption": "caption"})], [0, 0])):
        batch = next(eval_batches(opened, encoder, batch_size=3))
        words = [TEXT.decode(ids) for ids in batch["caption"]["ids"]]
        assert words == ["dsc_0.jpg", "dsc_1.jpg", "dsc_2.jpg"] and batch["image"]["valid"].all()
        assert next(iter(train_batches(opened, encoder, batch_size=3, seed=0)))["caption"]["valid"].any()


def test_a_file_without_a_name_is_absent(tmp_path):
    write("lines", tmp_path)
    source = lines(tmp_path, {"image": "imgs/train0.png"}, {"image": ""}, {"image": "", "caption": ""})
    assert source[0]["image"].shape == (6, 4, 3) and source[1] == {"row": 1} and source[2] == {"row": 2, "caption": ""}


def test_texts_that_look_like_files_here_and_there_are_counted(tmp_path):
    source = lines(tmp_path, {"caption": "DSC_1.jpg"}, {"caption": "a bus"}, {"caption": "two"})
    assert source[0]["caption"] == "DSC_1.jpg" and "look like names of files: caption (1 of 3)" in source.report


@pytest.mark.parametrize(
    "value, message",
    [
        ("n/a", r"image='n/a': not a file that is read .*data.options.texts"),
        ("b.heic", r"image='b.heic': not a file that is read .*convert it"),
        (7, r"image=7: not a file that is read"),
        ("http://a.b/c.jpg", r"an address; download the file"),
        ("imgs", r"image='imgs': not a file"),
        ("x\0.png", "zero byte"),
        ("x" * 300 + ".png", "File name too long"),
        ("loop.png", "[Tt]oo many levels of symbolic links"),
    ],
)
def test_a_line_that_names_no_file_is_named(tmp_path, value, message):
    write("lines", tmp_path)
    (tmp_path / "loop.png").symlink_to("loop.png")
    rows = [json.loads(line) for line in open(tmp_path / "train.jsonl")]
    source = lines(tmp_path, *rows, {"image": value})
    with pytest.raises((ValueError, FileNotFoundError), match=rf"train.jsonl, line 4: .*{message}"):
        source[3]


# -- How files hold texts --------------------------------------------------------------------------------------------


def test_lines_with_marks_blanks_and_carriage_returns(tmp_path):
    rows = (b'{"caption": "a"}\r\n', b"\r\n", b"\n", b"  \t\n", b'{"caption": "b"}\n', b"\n", b'{"caption": "c"}')
    source = lines(tmp_path, *rows, raw=codecs.BOM_UTF8)
    assert [source[i]["caption"] for i in range(len(source))] == ["a", "b", "c"]
    source = lines(tmp_path, *rows[:-1], b'{"image": "no.jpg"}')
    with pytest.raises(FileNotFoundError, match=r"train.jsonl, line 7: image="):
        source[2]
    for rows in ((), (b"\n\n",), (codecs.BOM_UTF8,)):
        with pytest.raises(ValueError, match="holds no example"):
            lines(tmp_path, *rows)
    with pytest.raises(ValueError, match=r"train.jsonl, line 1: not valid JSON \(.*in UTF-8"):
        lines(tmp_path, '{"caption": "a"}\n'.encode("utf-16"))


@pytest.mark.parametrize("text", ["a \ud83d bus", "\udc00", "\ud83d\ude00 b", "\ud83d\ud83d\ude00"])
def test_lone_surrogates(text, tmp_path):
    """What JSON may hold and UTF-8 cannot, in texts and keys: U+FFFD, and pairs are the character that they mean."""
    want = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert well_formed(text) == want and want.encode()
    assert "\ufffd" in want or want == "\U0001f600 b"
    source = lines(tmp_path, {"caption": text, "about": {"list": [text], text: 1}})
    assert source[0]["caption"] == want and source[0]["about"] == {"list": [want], want: 1}
    tokens.encode_record(source[0])
    write_tar(tmp_path / "tars/train-0.tar", {"0.json": {"caption": text}})
    assert SOURCES["webdataset"](tmp_path / "tars")[0]["caption"] == want
    assert TEXT.encode(text, 99) == TEXT.encode(want, 99)


def test_hf_tokenizers_take_lone_surrogates(tmp_path):
    models = pytest.importorskip("tokenizers.models")
    from tokenizers import Tokenizer

    from data_pipeline.hf_text import HFTokenizer

    model = models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    assert HFTokenizer(tmp_path / "tokenizer.json").encode("\ud83d", 4) == [1]


@pytest.mark.parametrize("text", ["", "a", "a\r\n", "zwei\r\nZeilen\n", "ü"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_of_tars(text, encoding, tmp_path):
    write_tar(tmp_path / "train-0.tar", {"0.txt": text.encode(encoding), "0.cls": "7".encode(encoding)})
    assert SOURCES["webdataset"](tmp_path)[0] == {"row": 0, "txt": text.rstrip("\r\n"), "cls": 7}


@pytest.mark.parametrize(
    "data, message",
    [
        (b"[" * 5000, f"nested deeper than {NESTED}"),
        (b"[" * 100_000 + b"]" * 100_000, f"nested deeper than {NESTED}"),
        (b"[" * 101 + b"]" * 101, f"nested deeper than {NESTED}"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, f"nested deeper than {NESTED}"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        (b"1" * 5000, "Exceeds the limit"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b"", "Expecting value"),
        (b"{'a': 1}", "Expecting property name"),
    ],
    ids=range(9),
)
def test_json_that_is_refused(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parse_json(data)
    with pytest.raises(ValueError, match=rf"train.jsonl, line 2: not valid JSON \(.*{message}" if data else "line 2"):
        lines(tmp_path, {"a": 1}, data or b"[]")
    write_tar(tmp_path / "tars/train-0.tar", {"0.json": data})
    with pytest.raises(
        ValueError, match=rf"train-0.tar: 0.json: not a readable json \(.*{message}.*take the example out"
    ):
        SOURCES["webdataset"](tmp_path / "tars")[0]


def test_json_that_is_read(tmp_path):
    assert parse_json(b"[" * 100 + b"]" * 100) and parse_json(b"[" + b"[1]," * 500 + b"[1]]")
    source = lines(tmp_path, b'{"caption": NaN, "score": Infinity, "list": [1, NaN], "id": 1}\n', {"id": 2})
    assert source[0] == {"row": 0, "score": float("inf"), "list": [1, None], "id": 1} and source.fields >= {"score"}
    for row in (b'{"vectors": [[1, NaN, 2]]}', b'{"vectors": [[1, Infinity, 2]]}', b'{"vectors": [1e999, 1, 2]}'):
        source = lines(tmp_path, row)
        with pytest.raises(ValueError, match="'vectors': row 0"):
            next(eval_batches(source, Encoder((VECTORS,), {}, False), batch_size=1))


def test_a_line_beyond_all_measure_is_named(tmp_path, monkeypatch):
    from data_pipeline.sources import files

    monkeypatch.setattr(files, "LONGEST", 100)
    assert len(lines(tmp_path, {"a": "x" * 80})) == 1
    with pytest.raises(ValueError, match=r"train.jsonl, line 2: longer than 100 bytes"):
        lines(tmp_path, {"a": 1}, {"a": "x" * 200})


def test_as_text():
    assert [as_text(v) for v in ("a", "", None, 3, np.int64(4), 0.0)] == ["a", None, None, "3", "4", "0.0"]
    for value in (True, np.bool_(True), [], b"a", complex(1)):
        with pytest.raises(ValueError, match="is no text"):
            as_text(value)


# -- What nobody reads -----------------------------------------------------------------------------------------------


def test_members_and_files_that_nobody_reads_are_not_opened(tmp_path):
    write("lines", tmp_path)
    rows = [json.loads(line) | {"other": "missing.png"} for line in open(tmp_path / "train.jsonl")]
    folder = write("webdataset", tmp_path / "tars")
    write_tar(folder / "train-0.tar", {"0.png": (tmp_path / "imgs/train0.png").read_bytes(), "0.txt": "x",
                                       "0.other.png": b"broken", "0.npy": b"broken", "0.json": b"{"})  # fmt: skip
    caption = {"lines": CAPTION, "tars": Modality("c", "sequence", (9,), "txt", "text", 8000, tokenizer="text")}
    for name, source in (("lines", lines(tmp_path, *rows)), ("tars", SOURCES["webdataset"](folder))):
        with pytest.raises((FileNotFoundError, ValueError), match=r"other|0\.json|0\.npy"):
            source[0]
        encoder = Encoder((IMAGE, caption[name]), {"text": TEXT}, False)
        assert next(eval_batches(source, encoder, batch_size=1))["image"]["valid"].all()
        with pytest.raises(ValueError, match=r"none of . examples"):
            check_labels((CLASS,), source)
