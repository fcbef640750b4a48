"""Characters as tokens, and how a run finds its tokenizers of texts."""

import string

import numpy as np
import pytest

from configs.systems import grounded_sentences
from data_pipeline import text_tokenizers
from data_pipeline.text import TextTokenizer
from data_pipeline.text_tokenizers.characters import SYMBOLS, Tokenizer
from pretrain import build

TOKENS = Tokenizer()
PAD, UNK, SOS, EOS = range(4)


def test_there_are_a_hundred_symbols_and_each_comes_back():
    assert TOKENS.vocab_size == 100 and len(set(SYMBOLS)) == 96
    assert set(SYMBOLS) == set(string.printable) - set("\t\r\x0b\x0c")
    ids = TOKENS.encode(SYMBOLS, 200)
    assert ids == [*range(4, 100), EOS] and TOKENS.decode(ids) == SYMBOLS


@pytest.mark.parametrize(
    "text, plain",
    [
        ("A red Bus.", "A red Bus."), ("Café naïve", "Cafe naive"), ("ﬁ ½ ①", "fi 1\ufffd2 1"), ("", ""),
        ("日x", "\ufffdx"), ("\ud83d!", "\ufffd!"), ("a\u0301", "a"),
    ],
)  # fmt: skip
def test_what_is_no_symbol_is_written_in_them_or_unknown(text, plain):
    ids = TOKENS.encode(text, 99)
    assert ids[-1] == EOS and ids.count(UNK) == plain.count("\ufffd") and TOKENS.decode(ids) == plain


def test_a_text_is_cut_as_those_of_pieces_are():
    """Without its end, or with the end in the last character's place."""
    pieces = TextTokenizer()
    for make in (TOKENS, pieces):
        whole = make.encode("red cap", 40)
        assert make.encode("red cap", len(whole) - 1) == whole[:-1]
        assert make.encode("red cap", len(whole) - 1, keep_end=True) == [*whole[:-2], EOS]
        assert make.encode("red cap", 1, keep_end=True) == [EOS] == [make.eos_id]
    assert (TOKENS.pad_id, TOKENS.unk_id, TOKENS.sos_id) == (pieces.pad_id, pieces.unk_id, pieces.sos_id)


def test_decoding_stops_at_the_end_and_names_an_id_that_is_none():
    a = TOKENS.encode("a", 9)[0]
    assert TOKENS.decode([SOS, a, PAD, a, EOS, a]) == "aa"
    with pytest.raises(ValueError, match=r"token id 100 is outside the vocabulary 0\.\.99"):
        TOKENS.decode([100])


def test_a_run_finds_a_tokenizer_by_the_name_of_its_file():
    assert text_tokenizers.known("characters") and text_tokenizers.known("text") and text_tokenizers.known("a/b.json")
    assert not text_tokenizers.known("fsq") and not text_tokenizers.known("")
    run = build.parse(grounded_sentences.get_config("tiny"))
    (name, made), = build.text_tokenizers(run).items()  # fmt: skip
    assert name == "characters" and isinstance(made, Tokenizer)
    example = build.encoder(run, train=False)(build.source(run.data, "train")[5], None)["text"]
    assert TOKENS.decode(example["ids"]) == "upside-down face"
    written = build.write(run, "text", ["upside-down face"])
    np.testing.assert_array_equal(written["ids"][0], example["ids"])
    with pytest.raises(ValueError, match="'text': vocab_size=99, but the characters tokenizer has 100"):
        c = grounded_sentences.get_config("tiny")
        c.modalities[1]["vocab_size"] = 99
        build.text_tokenizers(build.parse(c))
