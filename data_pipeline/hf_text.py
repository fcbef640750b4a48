"""Text tokenizers of other projects: a `tokenizer.json` as the Hugging Face library `tokenizers` writes it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from data_pipeline.plain_text import well_formed


class HFTokenizer:
    """The same protocol as `TextTokenizer`, with the vocabulary and the special tokens that the file defines.

    Args:
      path: a `tokenizer.json`.

    Raises:
      FileNotFoundError: no such file.
      ImportError: the library `tokenizers` is not installed.
      ValueError: a file that the library cannot read.
    """

    def __init__(self, path: str | Path):
        try:
            from tokenizers import Tokenizer
        except ImportError as e:
            raise ImportError(f"tokenizer={str(path)!r} needs `tokenizers`: pip install 'tokenloom[hf]'") from e
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"tokenizer={str(path)!r}: no such file; save one with Tokenizer.save(path)")
        data = path.read_bytes()
        self.digest = hashlib.sha256(data).hexdigest()
        try:
            self._tokenizer = Tokenizer.from_str(data.decode())
        except Exception as e:  # what the library raises has no type of its own
            raise ValueError(f"tokenizer={str(path)!r}: not a file of the library `tokenizers` ({e})") from e
        # The length is that of the modality, and the pipeline pads.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._n_special = self._tokenizer.num_special_tokens_to_add(False)
        self.vocab_size = max(self._tokenizer.get_vocab().values()) + 1

    def __repr__(self) -> str:
        return f"HFTokenizer(vocab_size={self.vocab_size}, digest={self.digest[:12]})"

    def encode(self, text: str, max_len: int, *, keep_end: bool = True) -> list[int]:
        """Token ids with the special tokens of the file's template; what is cut are words, never special tokens."""
        if max_len < self._n_special:
            raise ValueError(f"max_len={max_len}: must hold the {self._n_special} special tokens of {self!r}")
        # In three steps, as a truncation set in the tokenizer would be shared by threads that encode other modalities.
        encoding = self._tokenizer.encode(well_formed(text), add_special_tokens=False)
        encoding.truncate(max_len - self._n_special)
        return self._tokenizer.post_process(encoding).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids without special tokens."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
