"""Characters as tokens: spelling is all that a model knows of a word before it has seen it (arXiv 1903.11393)."""

import hashlib
import unicodedata
from collections.abc import Iterable

from data_pipeline.plain_text import well_formed

SPECIAL = ("[PAD]", "[UNK]", "[SOS]", "[EOS]")  # ids 0 to 3, as of `TextTokenizer`
SYMBOLS = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1)))


class Tokenizer:
    """100 symbols: four special ones, a new line and printable ASCII. Case is kept. Other characters are written in
    these where their compatibility decomposition has some, accents left out; else each is [UNK]."""

    pad_id, unk_id, sos_id, eos_id = range(4)
    vocab_size = len(SPECIAL) + len(SYMBOLS)
    digest = hashlib.sha256(SYMBOLS.encode()).hexdigest()

    def __init__(self):
        self._ids = {symbol: i for i, symbol in enumerate(SYMBOLS, len(SPECIAL))}

    def encode(self, text: str, max_len: int, *, keep_end: bool = False) -> list[int]:
        """Ids and [EOS], cut to `max_len`: [EOS] first, unless `keep_end` has the last character make room for it."""
        plain = unicodedata.normalize("NFKD", well_formed(text))
        ids = [self._ids.get(c, self.unk_id) for c in plain if not unicodedata.combining(c)]
        return [*ids[: max_len - 1], self.eos_id] if keep_end else [*ids, self.eos_id][:max_len]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids up to the first [EOS]; [UNK] is U+FFFD, [PAD] and [SOS] are dropped."""
        out = []
        for i in map(int, ids):
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"token id {i} is outside the vocabulary 0..{self.vocab_size - 1}.")
            if i == self.eos_id:
                break
            out.append("\ufffd" if i == self.unk_id else SYMBOLS[i - len(SPECIAL)] if i >= len(SPECIAL) else "")
        return "".join(out)
