"""Trains the text tokenizer on the names, keywords and groups of the emoji corpus.

    python -m tools.train_text_tokenizer --out PATH [--vocab_size 8000]

Unigram SentencePiece with byte fallback, so that no text is unknown, on case-folded NFKC text. Only the train split is
read. Training is deterministic: the same SentencePiece writes the same bytes.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from data_pipeline.sources.emoji import metadata
from data_pipeline.text import SPECIAL_TOKENS, TextTokenizer
from pretrain.storage import write

ENGLISH = 10  # one language of 26 would be cut into letters, but captions and keywords are in it


def sentences() -> Iterator[str]:
    """Every text of the train split: names in all languages, keywords, group and subgroup; English names repeated."""
    for row in metadata():
        if row["split"] == "train":
            yield from row["name"].values()
            yield from [row["name"]["en"]] * ENGLISH
            yield from row["keywords"]["en"]
            yield row["group"]
            yield row["subgroup"]


def train(vocab_size: int) -> bytes:
    """Returns the serialized model. ValueError if the vocabulary cannot hold the special tokens and bytes, or is larger
    than what the texts give."""
    reserved = len(SPECIAL_TOKENS) + 256
    if vocab_size <= reserved:
        raise ValueError(f"vocab_size={vocab_size} must exceed {reserved}: the special tokens and the 256 bytes.")
    model = io.BytesIO()
    pad, unk, sos, eos, *symbols = SPECIAL_TOKENS
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            normalization_rule_name="nmt_nfkc_cf",
            byte_fallback=True,
            character_coverage=0.9995,  # the rarest characters fall back to bytes and leave room for words
            pad_id=0,
            pad_piece=pad,
            unk_id=1,
            unk_piece=unk,
            bos_id=2,
            bos_piece=sos,
            eos_id=3,
            eos_piece=eos,
            user_defined_symbols=symbols,
            num_threads=1,  # the order of summation, and with it the pieces, depends on the number of threads
            shuffle_input_sentence=False,
            minloglevel=1,
        )
    except RuntimeError as e:
        raise ValueError(f"vocab_size={vocab_size}: SentencePiece cannot train it ({e}); give another") from e
    return model.getvalue()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=lambda text: Path(text).expanduser(), required=True, help="file for the model")
    parser.add_argument("--vocab_size", type=int, default=8000)
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, train(args.vocab_size))
    print(f"{args.out}: {TextTokenizer(args.out)}")


if __name__ == "__main__":
    main()
