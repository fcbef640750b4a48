"""tokenizer.json made of our SentencePiece model gives its ids; the special tokens of other files are found."""

import dataclasses
import json

import pytest

from data_pipeline.sources.emoji import metadata
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer, read_model
from pretrain.interop import tokenizer_json


def test_the_tokenizer_gives_our_ids():
    pytest.importorskip("tokenizers.models")  # `tokenizers` alone may be the folder beside this one
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_str(json.dumps(tokenizer_json.from_sentencepiece(read_model())))
    ours = TextTokenizer()
    texts = {t for row in metadata() for t in (*row["name"].values(), *row["keywords"]["en"], row["subgroup"])}
    texts = [
        *sorted(texts),
        "",
        "  two  spaces ",
        "[S_0] v0=1 v1=22",
        "x[S_1]y",
        "a [S_2] b",
        "red [S_3]",
        "日本語　ﬁ ß Ω",
    ]
    assert len(texts) > 40_000 and theirs.get_vocab_size() == ours.vocab_size
    different = [t for t, e in zip(texts, theirs.encode_batch(texts)) if e.ids != ours.encode(t, 10**6)]
    assert not different
    for text in texts[::200]:
        assert theirs.decode(theirs.encode(text).ids) == ours.decode(ours.encode(text, 10**6))


def test_special_tokens_of_other_files(tmp_path):
    text = Modality("text", "sequence", (16,), "caption", "text", 8000, tokenizer="text")
    assert tokenizer_json.special_ids(text) == {"bos_token": 2, "eos_token": 3, "pad_token": 0}
    made = tokenizer_json.from_sentencepiece(read_model())
    (tmp_path / "mine.json").write_text(json.dumps(made))
    (tmp_path / tokenizer_json.CONFIG).write_text("{}")  # of another
    mine = dataclasses.replace(text, tokenizer=str(tmp_path / "mine.json"))
    assert tokenizer_json.special_ids(mine) == {"eos_token": 3}  # from its template
    out = tmp_path / "out"
    out.mkdir()
    assert tokenizer_json.write(out, mine, 1, ["input_ids"])
    config = json.loads((out / tokenizer_json.CONFIG).read_text())
    assert (config["pad_token"], config["eos_token"], config["model_max_length"]) == ("[UNK]", "[EOS]", 16)
    with pytest.raises(ValueError, match=r"pad_id=9999: .* has no such token"):
        tokenizer_json.write(out, mine, 9999, [])
    with pytest.raises(FileNotFoundError, match="put it back"):
        tokenizer_json.special_ids(dataclasses.replace(text, tokenizer="gone.json"))
    with pytest.raises(FileNotFoundError, match=r"gone.model.*train one with"):
        tokenizer_json.special_ids(dataclasses.replace(text, tokenizer="gone.model"))
