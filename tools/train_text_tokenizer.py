"""Trains a text tokenizer: python -m tools.train_text_tokenizer --source=files --path=DIR --fields=caption --out=FILE

FILE ends in `.model`; a modality of texts names it, `tokenizer="FILE"`, with the `vocab_size` that is printed. Without
--source it learns the names, keywords and groups of the emoji corpus: `text`, which comes with the project.
Unigram SentencePiece with byte fallback, so that no text is unknown, on case-folded NFKC text. Only the train split is
read. Training is deterministic: the same SentencePiece writes the same bytes.
"""

import argparse
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from data_pipeline.sources.emoji import metadata
from data_pipeline.text import SPECIAL_TOKENS, TextTokenizer, list_texts
from pretrain import build
from pretrain.data import Data
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


def texts_of(source, fields) -> Iterator[str]:
    """Every text of some fields of all examples; of a list each. ValueError if a field holds something else."""
    has = getattr(source, "fields", None)
    for field in fields:
        if has is not None and field not in has:
            raise ValueError(f"fields={field!r}: the examples have {', '.join(sorted(has))}; name those that are texts")
    for i in range(len(source)):
        example = source.pick(i, fields, fields) if hasattr(source, "pick") else source[i]
        for field in fields:
            yield from list_texts(field, example.get(field))


def train(vocab_size: int, texts: Iterable[str], *, at_most: bool = False) -> bytes:
    """Returns the serialized model. at_most: of a smaller vocabulary if the texts give no more.

    ValueError if the vocabulary cannot hold the special tokens and bytes, or is larger than what the texts give.
    """
    reserved = len(SPECIAL_TOKENS) + 256
    if vocab_size <= reserved:
        raise ValueError(f"vocab_size={vocab_size} must exceed {reserved}: the special tokens and the 256 bytes.")
    model = io.BytesIO()
    pad, unk, sos, eos, *symbols = SPECIAL_TOKENS
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
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
            **({"hard_vocab_limit": False} if at_most else {}),
        )
    except RuntimeError as e:
        raise ValueError(f"vocab_size={vocab_size}: SentencePiece cannot train it ({e}); give another") from e
    return model.getvalue()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="", help="file of data_pipeline/sources; the emoji corpus if not given")
    parser.add_argument("--path", default="", help="the folder that it reads")
    parser.add_argument("--fields", default="caption", help="those that are texts, with commas between")
    parser.add_argument("--split", default="train", help="what it learns from")
    parser.add_argument("--out", type=lambda text: Path(text).expanduser(), required=True, help="file for the model")
    parser.add_argument("--vocab_size", type=int, default=8000, help="special tokens and bytes, 4460, are among it")
    args = parser.parse_args(argv)
    if args.out.suffix != ".model":
        parser.error(f"--out={args.out}: a run knows it by the end of its name: call it {args.out.stem}.model")
    texts = sentences()
    if args.source:
        texts = texts_of(build.source(Data(args.source, args.path), args.split), tuple(args.fields.split(",")))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, train(args.vocab_size, texts))
    print(f"{args.out}: {TextTokenizer(args.out)}")


if __name__ == "__main__":
    main()
