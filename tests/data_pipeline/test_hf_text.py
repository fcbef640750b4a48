"""A tokenizer.json of the library `tokenizers` in place of SentencePiece."""

import hashlib
import pickle
import sys

import pytest

from data_pipeline.hf_text import HFTokenizer
from data_pipeline.pipeline import Encoder, eval_batches
from data_pipeline.spec import Modality
from data_pipeline.transforms import crop
from pretrain import build

pytest.importorskip("tokenizers.models")  # `tokenizers` alone would find the folder beside this one
import tokenizers

WORDS = ["a", "red", "bus", "in", "the", "rain"]  # ids 3 … 8


@pytest.fixture
def path(tmp_path):
    """Words in lower case between <s> 0 and </s> 1, with truncation and padding of its own that do not count."""
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>", "</s>", "<unk>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    made.enable_truncation(4)
    made.enable_padding(length=20, pad_id=1, pad_token="</s>")
    made.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def test_ids_and_text(path):
    tokenizer = HFTokenizer(path)
    assert tokenizer.vocab_size == 9 and "vocab_size=9" in repr(tokenizer)
    assert tokenizer.digest == hashlib.sha256(open(path, "rb").read()).hexdigest()
    assert tokenizer.encode("a red BUS in the rain", 77) == [0, 3, 4, 5, 6, 7, 8, 1]
    assert tokenizer.encode("a blue bus", 77) == [0, 3, 2, 5, 1]
    assert tokenizer.decode([0, 3, 4, 5, 1]) == "a red bus"


def test_what_is_cut_are_words(path):
    tokenizer = HFTokenizer(path)
    assert tokenizer.encode("a red bus in the rain", 5) == [0, 3, 4, 5, 1]
    assert tokenizer.encode("a red bus", 5) == [0, 3, 4, 5, 1]
    assert tokenizer.encode("a red bus", 2) == tokenizer.encode("", 9) == [0, 1]
    with pytest.raises(ValueError, match=r"max_len=1: must hold the 2 special tokens"):
        tokenizer.encode("a", 1)


def test_without_a_template_nothing_is_added(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 7}, [("a", "b")]))
    made.save(str(tmp_path / "bpe.json"))
    tokenizer = HFTokenizer(tmp_path / "bpe.json")
    assert tokenizer.vocab_size == 8, "the largest id and one, whatever ids are left out"
    assert tokenizer.encode("abba", 9) == [7, 1, 0] and tokenizer.encode("abba", 2) == [7, 1]


def test_pickle(path):
    copy = pickle.loads(pickle.dumps(HFTokenizer(path)))
    assert copy.encode("a red bus", 4) == [0, 3, 4, 1] and copy.digest == HFTokenizer(path).digest


def test_bad_files(tmp_path, monkeypatch, path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer='.*none.json': no such file"):
        HFTokenizer(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=r"broken.json': not a file of the library"):
        HFTokenizer(tmp_path / "broken.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"needs `tokenizers`: pip install 'tokenloom\[hf\]'"):
        HFTokenizer(path)


def run(path, vocab_size=9):
    text = dict(kind="sequence", field="caption", shape=(5,), targets=False)
    modalities = [
        dict(name="hf", vocab="hf", vocab_size=vocab_size, tokenizer=path) | text,
        dict(name="ours", vocab="text", vocab_size=8000, tokenizer="text") | text,
        dict(name="again", vocab="hf", vocab_size=vocab_size, tokenizer=path) | text,
    ]
    config = dict(steps=1, batch_size=2, modalities=modalities, model={}, objectives={"masked": {}})
    crops = dict(transform="crop", flip=0.5, ratio=(0.75, 1.25))
    return build.parse(config | dict(data=dict(source="files", path="x", transforms=[crops])))


def test_a_run_may_have_several_tokenizers(path):
    found = build.text_tokenizers(run(path))
    assert set(found) == {path, "text"} and found[path].digest == HFTokenizer(path).digest
    encoder = build.encoder(run(path), train=True)
    assert encoder.transforms == (crop.Transform(0.8, (0.75, 1.25), 0.5),)
    (batch,) = eval_batches([{"row": 0, "caption": "the red bus"}], build.encoder(run(path), train=False), batch_size=1)
    assert batch["hf"]["ids"].tolist() == batch["again"]["ids"].tolist() == [[0, 7, 4, 5, 1]]
    assert found["text"].decode(batch["ours"]["ids"][0]).startswith("the red")


def test_the_vocabulary_must_hold_its_ids(path):
    with pytest.raises(ValueError, match=r"modality 'hf': vocab_size=8, but .*tokenizer.json has 9"):
        build.text_tokenizers(run(path, 8))
    assert build.text_tokenizers(run(path, 12)), "published tables are often padded"


def test_text_in_the_place_of_ids():
    spec = Modality("hf", "sequence", (5,), "caption", "hf", 9, tokenizer="stored")
    with pytest.raises(ValueError, match=r"holds the text 'a bus': store its ids, or set .* tokenizer.json"):
        Encoder((spec,), {}, False)({"row": 0, "caption": "a bus"}, None)
