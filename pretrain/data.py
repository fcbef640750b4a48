"""What a run's config says of its data, and whether token stores fit the run's specs."""

import dataclasses
import math
from typing import Annotated

from data_pipeline.orders import shuffle
from data_pipeline.orders.base import ORDER, Order
from data_pipeline.sources import tokens
from data_pipeline.transforms import crop
from data_pipeline.transforms.base import TRANSFORM, Transform


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of a mixture; source, path and options are those of `Data`.

    name: what the components of the masked objective's mixture call it (their `sources`), if they do.
    weight: its share of what is trained on, beside the other weights; none gives one if the sizes are to decide.
    modalities: which of the run's its examples have; () for all that they hold.
    fields: {field that the run's modalities are made from: field of this source}, where the names differ.
    splits: those that it takes part in; () for all.
    """

    source: str
    name: str = ""
    path: str = ""
    options: dict = dataclasses.field(default_factory=dict)
    weight: float = 0.0
    modalities: tuple[str, ...] = ()
    fields: dict = dataclasses.field(default_factory=dict)
    splits: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Data:
    """source: a file of data_pipeline/sources: `emoji`, `tokens`, `files`, `webdataset`, `tar_tree`, `tfds`, `parquet`,
      `graph`.

    path: the folder that it reads, if it does; options: what its Source takes beside path and split, such as `outside`,
    whether files may lie out of that folder (`data_pipeline.folders`).
    sources, temperature: several instead of one, mixed by their weights or by size^(1 / temperature).
    transforms: what is done to an example, in order: each a file of data_pipeline/transforms and its settings.
    order: in which examples are read: a file of data_pipeline/orders and its settings.
    """

    source: str = ""
    path: str = ""
    options: dict = dataclasses.field(default_factory=dict)
    sources: tuple[Part, ...] = ()
    temperature: float = 1.0
    train: str = "train"
    workers: int = 0
    transforms: tuple[Annotated[Transform, TRANSFORM], ...] = (crop.Transform(),)
    order: Annotated[Order, ORDER] = shuffle.Order()

    def __post_init__(self):
        if bool(self.source) == bool(self.sources):
            raise ValueError(
                f"config.data.source={self.source!r}: name one source there, or several in config.data.sources"
            )
        names = [part.name for part in self.sources if part.name]
        if len(set(names)) < len(names):
            raise ValueError(f"config.data.sources: their names are {', '.join(names)}: give each one of its own")
        if self.temperature <= 0:
            raise ValueError(f"config.data.temperature={self.temperature}: must be above 0; 1 mixes by size")


def token_stores(data: Data) -> list[tuple[str, Data | Part]]:
    """(key of the config, what it says) of each token store."""
    parts = [(f"config.data.sources[{i}]", part) for i, part in enumerate(data.sources)] or [("config.data", data)]
    return [(key, part) for key, part in parts if part.source == "tokens"]


def check_tokens(run):
    """A token store must hold every grid modality that it is to give, made by the tokenizer that its spec names."""
    digests = {}
    for key, part in token_stores(run.data):
        if not part.path:
            raise ValueError(
                f"{key}.path='': the source `tokens` reads a token store; give its folder (tools.tokenize)"
            )
        tokenizers, only = tokens.read_manifest(part.path)["tokenizers"], getattr(part, "modalities", ())
        for m in run.modalities:
            if not m.fixed_length or (only and m.name not in only):
                continue
            _check_made(m, getattr(part, "fields", {}).get(m.field, m.field), part.path, tokenizers)
            digest, other = digests.setdefault(m.tokenizer, (tokenizers[m.tokenizer]["digest"], part.path))
            if digest != tokenizers[m.tokenizer]["digest"]:
                raise ValueError(
                    f"{key}.path={part.path!r}: its tokenizer {m.tokenizer!r} is not that of {other}, so the same ids "
                    "mean other things; tokenize one of them again"
                )


def read_codes(run) -> dict:
    """{vocab: (code_std, its codes float32 `[vocab_size, d]`)} of the modalities whose tables start from codes."""
    out = {}
    for m in (m for m in run.modalities if m.code_std):
        held = [tokens.read_codes(part.path, m.tokenizer) for _, part in token_stores(run.data)]
        held = [codes for codes in held if codes is not None]
        if not held:
            raise ValueError(
                f"modality {m.name!r}: code_std={m.code_std}: no token store of config.data holds the codes of "
                f"{m.tokenizer!r}; tokenize again, or set code_std=0"
            )
        out[m.vocab] = m.code_std, held[0]
    return out


def _check_made(m, field, path, tokenizers):
    about = tokenizers.get(m.tokenizer)
    if about is None or field not in about["modalities"]:
        raise ValueError(
            f"modality {m.name!r}: tokenizer={m.tokenizer!r}, field={field!r}: {path} has "
            f"{ {name: t['modalities'] for name, t in tokenizers.items()} }; make it with tools.tokenize"
        )
    if about["vocab_size"] != m.vocab_size or math.prod(about["shape"]) != m.length:
        raise ValueError(
            f"modality {m.name!r}: vocab_size={m.vocab_size}, shape={m.shape}, but its tokenizer makes "
            f"{about['vocab_size']} codes on a grid of {about['shape']}; change the spec or tokenize again"
        )
