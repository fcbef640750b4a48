"""Text: the SentencePiece tokenizer with 4M's special tokens, and the metadata of an example written as text."""

import hashlib
import importlib.resources
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece

from data_pipeline.image import palette_text
from data_pipeline.plain_text import as_text, well_formed
from data_pipeline.structured import encode_detections, encode_humans, encode_instances, encode_metadata

LANGUAGES = (
    *("en", "es", "fr", "de", "it", "pt", "nl", "sv", "pl", "cs", "ru", "uk", "el"),
    *("tr", "ar", "he", "fa", "hi", "bn", "th", "vi", "id", "zh", "ja", "ko", "sw"),
)
STRUCTURED = ("det", "metadata", "human_poses", "sam_instance")
FIELDS = (
    *(f"name:{language}" for language in LANGUAGES),
    "name:random",
    "keywords",
    "group",
    "subgroup",
    "palette",
    *STRUCTURED,
)

N_SENTINELS = 200
N_NUMBERS = 1000
SPECIAL_TOKENS = (
    *("[PAD]", "[UNK]", "[SOS]", "[EOS]"),
    *(f"[S_{k}]" for k in range(N_SENTINELS)),
    *(f"v{j}={n}" for j in range(4) for n in range(N_NUMBERS)),
)
_WORD_START = "▁"  # SentencePiece's mark of a space


class TextTokenizer:
    """SentencePiece with the ids of 4M: 0 [PAD], 1 [UNK], 2 [SOS], 3 [EOS], 4..203 [S_0]..[S_199],
    204 + 1000 j + n "vj=n" (j 0..3, n 0..999), then bytes and pieces. Text is case-folded and NFKC-normalised.

    Args:
      path: a model that `python -m tools.train_text_tokenizer` wrote; None for the packaged one.

    Raises:
      FileNotFoundError: no such model.
      ValueError: a SentencePiece model with other special tokens.
    """

    pad_id, unk_id, sos_id, eos_id = range(4)
    sentinel_start = 4
    n_sentinels = N_SENTINELS

    def __init__(self, path: str | Path | None = None):
        model = read_model(path)
        self.digest = hashlib.sha256(model).hexdigest()
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as e:
            raise ValueError(
                f"path={str(path)!r}: no model of SentencePiece ({len(model):,} bytes); train one with "
                "`python -m tools.train_text_tokenizer`"
            ) from e
        self.vocab_size = self._processor.vocab_size()
        for token_id, token in enumerate(SPECIAL_TOKENS):
            if token_id >= self.vocab_size or self._processor.id_to_piece(token_id) != token:
                raise ValueError(
                    f"path={path!r}: token {token_id} must be {token!r}. "
                    "Train the model with `python -m tools.train_text_tokenizer`."
                )
        self._space_id = self._processor.piece_to_id(_WORD_START)

    def __repr__(self) -> str:
        return f"TextTokenizer(vocab_size={self.vocab_size}, digest={self.digest[:12]})"

    def encode(self, text: str, max_len: int, *, keep_end: bool = False) -> list[int]:
        """Token ids and [EOS], cut to `max_len`; "[S_k]" and "vj=n" become their one token.

        A text that is too long loses its [EOS], as in 4M (`sequence_mask` of apple/ml-4m appends it, then truncates):
        what predicts text does not learn that it ends where it was cut. With `keep_end` words are cut instead, as
        `HFTokenizer` and transformers do: what is pooled at its end has one.
        """
        ids = self._processor.encode(well_formed(text))
        # SentencePiece puts the space before a special token into a piece of its own, which says nothing.
        pairs = itertools.pairwise([*ids, self.eos_id])
        ids = [i for i, following in pairs if i != self._space_id or not _is_special(following)]
        return [*ids[: max_len - 1], self.eos_id] if keep_end else [*ids, self.eos_id][:max_len]

    def decode(self, ids: Iterable[int], *, sentinels: bool = True) -> str:
        """Text of the ids up to the first [EOS]. [PAD] and [SOS] are dropped, and sentinels too if asked to.

        Special tokens stand as words of their own: "red [S_1] v0=3".
        """
        words, run = [], []
        for token_id in (int(i) for i in ids):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token id {token_id} is outside the vocabulary 0..{self.vocab_size - 1}.")
            if token_id == self.eos_id:
                break
            if not _is_special(token_id):
                run.append(token_id)
                continue
            words, run = [*words, self._processor.decode(run)], []
            is_sentinel = self.sentinel_start <= token_id < self.sentinel_start + self.n_sentinels
            if token_id not in (self.pad_id, self.sos_id) and (sentinels or not is_sentinel):
                words.append(SPECIAL_TOKENS[token_id])
        words.append(self._processor.decode(run))
        return " ".join(word for word in words if word)

    def number(self, j: int, n: int) -> int:
        """Id of the token "vj=n", the n-th value of the j-th coordinate."""
        if not (0 <= j < 4 and 0 <= n < N_NUMBERS):
            raise ValueError(f"there is no token v{j}={n}: j must be in 0..3 and n in 0..{N_NUMBERS - 1}.")
        return self.sentinel_start + self.n_sentinels + N_NUMBERS * j + n


def read_model(path: str | Path | None = None) -> bytes:
    """A file of SentencePiece, None for the one that comes with the project. FileNotFoundError if there is none."""
    if path is None:
        return (importlib.resources.files("data_pipeline") / "text_models" / "emoji.model").read_bytes()
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"tokenizer={str(path)!r}: no such file; train one with `python -m tools.train_text_tokenizer`"
        )
    return file.read_bytes()


def render(field: str, example: dict, rng: np.random.Generator | None = None) -> str | None:
    """Writes one field of an example as text.

    Args:
      field: "name:<language>", "name:random" (a language that the example has), "keywords" (joined by ", "), "group",
        "subgroup", or "palette" (1..7 colours; `example["palettes"]` is a list whose entry k - 1 is uint8[<=k, 3], the
        k dominant colours), or one of STRUCTURED, encoded by `data_pipeline.structured`: `det` {"boxes", "classes"},
        `metadata` {name: number}, `human_poses` a list of Human, `sam_instance` a list of Point. Any other field
        must be a string or a list of strings, such as the captions of an image; numbers are written as text.
      example: the metadata, as a source yields it.
      rng: draws the language, the order of the keywords, the number of colours and which string of a list. None gives
        the form for evaluation: English or else the first of LANGUAGES, the given order, 5 colours, the first string.

    Returns:
      The text, or None if the example lacks the field.

    Raises:
      ValueError: a field that holds something else.
    """
    kind, _, language = field.partition(":")
    if field not in FIELDS or kind in ("group", "subgroup"):
        return _one(list_texts(field, example.get(field)), rng)
    if kind == "name":
        return _name(language, example.get("name"), rng)
    if kind == "keywords":
        words = list_texts("keywords", example.get("keywords"))  # a text is one word: nothing tells how to part it
        return ", ".join(words if rng is None else rng.permutation(words)) or None
    if kind == "palette":
        return _palette(example.get("palettes"), rng)
    if example.get(kind) is None:
        return None
    try:
        return _structured(kind, example[kind], rng) or None
    except (KeyError, TypeError, AttributeError, IndexError) as e:
        raise ValueError(
            f"field={field!r} holds {example[kind]!r:.60}, which `data_pipeline.structured` does not encode "
            f"({type(e).__name__}: {e}); see `text.render`"
        ) from e


def made_of(field: str) -> str:
    """The field of an example that `render` reads for one that it is asked for."""
    kind = field.partition(":")[0]
    return {"palette": "palettes"}.get(kind, kind) if field in FIELDS else field


def list_texts(field: str, value) -> list[str]:
    """One text or a list of them, numbers as they are written, without what says nothing."""
    values = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    try:
        texts = [as_text(v) for v in (values if isinstance(values, list | tuple) else [values])]
    except ValueError as e:
        raise ValueError(
            f"field={field!r} holds {value!r:.40}: it must be a string or a list of strings ({e}); "
            f"what is written in another way is {', '.join(FIELDS)}."
        ) from e
    return [text for text in texts if text]


def _one(texts: list[str], rng) -> str | None:
    return texts[0 if rng is None else rng.integers(len(texts))] if texts else None


def _name(language: str, names, rng):
    if not isinstance(names, dict | None):
        raise ValueError(f"field='name' holds {names!r:.40}: it must be {{language: text}}; or name another field")
    names = names or {}
    if language == "random":
        known = [candidate for candidate in LANGUAGES if candidate in names]
        language = known[0 if rng is None else rng.integers(len(known))] if known else ""
    return _one(list_texts("name", names.get(language)), rng)


def _palette(palettes, rng):
    if palettes is None or not len(palettes):
        return None
    if not isinstance(palettes, list | tuple | np.ndarray):
        raise ValueError(f"field='palettes' holds {palettes!r:.40}: it must be a list of uint8[n, 3]")
    count = 5 if rng is None else rng.integers(1, 8)
    return palette_text(palettes[min(count, len(palettes)) - 1])


def _structured(kind, value, rng):
    if kind == "det":
        return encode_detections(value["boxes"], value["classes"])
    if kind == "sam_instance":
        return encode_instances(value)
    return {"metadata": encode_metadata, "human_poses": encode_humans}[kind](value, rng)


def _is_special(token_id: int) -> bool:
    return token_id < len(SPECIAL_TOKENS)
