"""Tokenizers of texts, one file each with a class `Tokenizer`: what `tokenizer` of a sequence names, beside the path of
a `tokenizer.json`, or of a `.model` that `tools.train_text_tokenizer` wrote.

`vocab_size`, `digest`, `encode(text, max_len, *, keep_end=False)` → ids, and `decode(ids)` → text, as `TextTokenizer`
has them. One that draws (kind `rendered`) has no ids: `vocab_size` is 0, a token is a row of `width` numbers.
"""

from data_pipeline.discover import files, load
from data_pipeline.hf_text import HFTokenizer
from data_pipeline.text import TextTokenizer, read_model

PACKAGED = "text"


def known(name: str) -> bool:
    """Whether a run can encode texts by it; of another tokenizer data hold ids that were made beforehand."""
    return foreign(name) or trained(name) or name in files(__name__)


def foreign(name: str) -> bool:
    """Whether it is a file of the library `tokenizers`."""
    return name.endswith(".json")


def trained(name: str) -> bool:
    """Whether it is a file of `tools.train_text_tokenizer`."""
    return name.endswith(".model")


def sentencepiece_model(name: str) -> bytes | None:
    """The SentencePiece model of a tokenizer with 4M's special tokens; None of others."""
    if name == PACKAGED:
        return read_model()
    return read_model(name) if trained(name) else None


def marks_spans(name: str) -> bool:
    """Whether sentinels, ids that stand for masked spans, are among its own: one says so by `n_sentinels`; a
    `tokenizer.json`, and who made ids that data hold, are trusted."""
    made_here = known(name) and not foreign(name) and not trained(name)
    return not made_here or hasattr(load(__name__, name, "tokenizer", "Tokenizer").Tokenizer, "n_sentinels")


def patch(name: str) -> int:
    """How many numbers a token has of one that draws; 0 of one that makes ids."""
    ids = foreign(name) or trained(name)
    return 0 if ids else getattr(load(__name__, name, "tokenizer", "Tokenizer").Tokenizer, "width", 0)


def make(name: str):
    """The tokenizer of a known name."""
    if foreign(name):
        return HFTokenizer(name)
    return TextTokenizer(name) if trained(name) else load(__name__, name, "tokenizer", "Tokenizer").Tokenizer()
