"""The packaged SentencePiece model."""

from data_pipeline.text import TextTokenizer as Tokenizer  # noqa: F401 (found by its name)
