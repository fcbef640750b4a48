"""Tokenizers of texts, one file each with a class `Tokenizer`: what `tokenizer` of a sequence names, beside the path of
a `tokenizer.json`.

`vocab_size`, `digest`, `encode(text, max_len, *, keep_end=False)` → ids, and `decode(ids)` → text, as `TextTokenizer`
has them.
"""

from data_pipeline.discover import files, load
from data_pipeline.hf_text import HFTokenizer


def known(name: str) -> bool:
    """Whether a run can encode texts by it; of another tokenizer data hold ids that were made beforehand."""
    return foreign(name) or name in files(__name__)


def foreign(name: str) -> bool:
    """Whether it is a file of the library `tokenizers`."""
    return name.endswith(".json")


def make(name: str):
    """The tokenizer of a known name."""
    return HFTokenizer(name) if foreign(name) else load(__name__, name, "tokenizer", "Tokenizer").Tokenizer()
