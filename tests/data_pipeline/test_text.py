"""The text tokenizer keeps 4M's layout and loses no text; fields render as documented."""

import hashlib
import importlib.resources
import pickle
import unicodedata

import numpy as np
import pytest
import sentencepiece

from data_pipeline.image import parse_palette
from data_pipeline.sources.emoji import metadata
from data_pipeline.structured import Point, decode_metadata
from data_pipeline.text import LANGUAGES, STRUCTURED, TextTokenizer, render
from tools import train_text_tokenizer

EXAMPLE = {
    "name": {"en": "red apple", "fr": "pomme rouge"},
    "keywords": ["apple", "fruit", "red", "ripe"],
    "group": "food & drink",
    "subgroup": "fruit",
    "palettes": [np.full((min(k, 6), 3), 10 * k, np.uint8) for k in range(1, 8)],
}


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer()


def test_special_token_layout(tokenizer):
    piece = tokenizer._processor.id_to_piece
    assert [piece(i) for i in (0, 1, 2, 3, 4, 203)] == ["[PAD]", "[UNK]", "[SOS]", "[EOS]", "[S_0]", "[S_199]"]
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.sos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert (tokenizer.sentinel_start, tokenizer.n_sentinels) == (4, 200)
    for j, n in ((0, 0), (0, 255), (1, 7), (3, 999)):
        assert tokenizer.number(j, n) == 204 + 1000 * j + n and piece(tokenizer.number(j, n)) == f"v{j}={n}"
    assert tokenizer.vocab_size == 8000
    model = importlib.resources.files("data_pipeline") / "text_models" / "emoji.model"
    assert tokenizer.digest == hashlib.sha256(model.read_bytes()).hexdigest()


def test_special_tokens_take_exactly_one_id(tokenizer):
    number = tokenizer.number
    text = "v1=2 v0=12 v0=255 v0=3"
    assert tokenizer.encode(text, 10) == [number(1, 2), number(0, 12), number(0, 255), number(0, 3), 3]
    assert tokenizer.decode(tokenizer.encode(text, 10)) == text
    ids = tokenizer.encode("[S_1] red [S_2]", 10)
    assert (ids[0], ids[-2]) == (5, 6)
    assert tokenizer.decode(ids) == "[S_1] red [S_2]"
    assert tokenizer.decode(ids, sentinels=False) == "red"


def test_names_in_all_languages_round_trip(tokenizer):
    """Up to case and NFKC; SentencePiece's normaliser also makes a zero-width non-joiner a space."""

    def normal(text):
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        return " ".join(text.replace("\u200c", " ").split())

    for meta in metadata():
        assert set(meta["name"]) <= set(LANGUAGES)
        for name in meta["name"].values():
            ids = tokenizer.encode(name, 100)
            assert ids[-1] == tokenizer.eos_id and tokenizer.unk_id not in ids
            assert normal(tokenizer.decode(ids)) == normal(name)


@pytest.mark.parametrize("text", ["ᚠᚢᚦ", "𐎀𐎁", "🦄 ok", "ꦲꦏ"])
def test_unseen_scripts_fall_back_to_bytes(tokenizer, text):
    ids = tokenizer.encode(text, 100)
    assert tokenizer.unk_id not in ids and tokenizer.decode(ids) == text


def test_truncation_and_stop(tokenizer):
    ids = tokenizer.encode("grinning face with big eyes", 100)
    assert ids.count(tokenizer.eos_id) == 1 and ids[-1] == tokenizer.eos_id
    assert tokenizer.encode("grinning face with big eyes", 3) == ids[:3]
    assert tokenizer.encode("", 5) == [tokenizer.eos_id]
    red = tokenizer.encode("red", 9)
    assert tokenizer.decode([2, *red, *tokenizer.encode("blue", 9)]) == "red"
    assert tokenizer.decode([0, 0, *red[:-1], 0, 0]) == "red"
    assert tokenizer.decode(np.array(red, np.int16)) == "red"


def test_pickle(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("red v0=1", 9) == tokenizer.encode("red v0=1", 9) and copy.digest == tokenizer.digest


def test_bad_ids(tokenizer):
    for j, n in ((4, 0), (0, 1000), (-1, 0)):
        with pytest.raises(ValueError, match="no token"):
            tokenizer.number(j, n)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])


def test_foreign_model(tmp_path):
    path = tmp_path / "foreign.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"] * 20), model_prefix=str(path.with_suffix("")), vocab_size=8, minloglevel=2
    )
    with pytest.raises(ValueError, match=r"\[PAD\]"):
        TextTokenizer(path)
    with pytest.raises(FileNotFoundError):
        TextTokenizer(tmp_path / "none.model")


def test_training_reads_the_train_split_only():
    train = [meta for meta in metadata() if meta["split"] == "train"]
    words = {w for m in train for w in (*m["name"].values(), *m["keywords"]["en"], m["group"], m["subgroup"])}
    assert set(train_text_tokenizer.sentences()) == words


def test_training_with_too_few_pieces():
    with pytest.raises(ValueError, match="vocab_size=4460"):
        train_text_tokenizer.train(4460, [])


def test_render_for_evaluation():
    assert render("name:fr", EXAMPLE) == "pomme rouge"
    assert render("name:random", EXAMPLE) == "red apple"
    assert render("name:random", {"name": {"ko": "사과"}}) == "사과"
    assert render("keywords", EXAMPLE) == "apple, fruit, red, ripe"
    assert render("group", EXAMPLE) == "food & drink" and render("subgroup", EXAMPLE) == "fruit"
    assert parse_palette(render("palette", EXAMPLE)).tolist() == [[50, 50, 50]] * 5


def test_render_draws():
    rng = np.random.default_rng(0)
    assert {render("name:random", EXAMPLE, rng) for _ in range(30)} == {"red apple", "pomme rouge"}
    orders = {render("keywords", EXAMPLE, rng) for _ in range(30)}
    assert len(orders) > 5 and {tuple(sorted(o.split(", "))) for o in orders} == {("apple", "fruit", "red", "ripe")}
    counts = {len(parse_palette(render("palette", EXAMPLE, rng))) for _ in range(80)}
    assert counts == {1, 2, 3, 4, 5, 6}  # the seventh palette of the example holds six colours
    assert render("palette", EXAMPLE, np.random.default_rng(5)) == render("palette", EXAMPLE, np.random.default_rng(5))


@pytest.mark.parametrize("field", ["name:en", "name:random", "keywords", "group", "subgroup", "palette"])
def test_render_of_a_missing_field(field):
    assert render(field, {}) is None and render(field, {}, np.random.default_rng(0)) is None


@pytest.mark.parametrize("caption", ["a bus", ["a bus", "a red bus", "traffic"], ("a bus", "a red bus", "traffic")])
def test_render_of_a_field_of_ones_own(caption):
    rng, example = np.random.default_rng(0), {"caption": caption}
    assert render("caption", example) == "a bus"
    drawn = {render("caption", example, rng) for _ in range(30)}
    assert drawn == ({caption} if isinstance(caption, str) else set(caption))


@pytest.mark.parametrize("example", [{}, {"caption": None}, {"caption": ""}, {"caption": []}])
def test_render_of_a_field_of_ones_own_that_is_absent(example):
    assert render("caption", example) is None and render("caption", example, np.random.default_rng(0)) is None


@pytest.mark.parametrize("value", [EXAMPLE["name"], True, ["a", {}], [float("inf")]])
def test_render_of_a_field_that_holds_no_text(value):
    with pytest.raises(ValueError, match=r"field='name' holds .*name:en, name:es.*palette"):
        render("name", {"name": value})


def test_structured_fields_are_special_tokens():
    """A training pipeline reads annotations as one token a number; each decodes back."""
    example = {
        "metadata": {"original_width": 640, "entropy": 5.0},
        "det": {"boxes": [[0.0, 0.0, 0.1, 0.1]], "classes": ["cat"]},
        "human_poses": [],
        "sam_instance": [Point((0.5, 0.25))],
    }
    tokenizer = TextTokenizer()
    texts = {field: render(field, example) for field in STRUCTURED}
    assert texts["human_poses"] == "none" and texts["sam_instance"] == "point v0=500 v1=250 none"
    assert len(tokenizer.encode(texts["metadata"], 40)) == 5  # two pairs and [EOS]
    assert (
        decode_metadata(tokenizer.decode(tokenizer.encode(texts["metadata"], 40))).keys() == example["metadata"].keys()
    )
    assert tokenizer.decode(tokenizer.encode(texts["det"], 40)) == "v0=0 v1=0 v2=100 v3=100 cat"
    assert all(render(field, {}) is None for field in STRUCTURED)
