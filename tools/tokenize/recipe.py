"""How one raw example becomes a record of tokens: its crops are cut, and each tokenizer runs over many at once."""

import dataclasses

import numpy as np

from data_pipeline import kinds
from data_pipeline.image import as_channels, palettes
from data_pipeline.pictures import common_frame, read_pictures
from data_pipeline.sources.tokens import encode_record
from data_pipeline.stored import as_picture, gathered, is_clip, is_picture
from data_pipeline.transforms.crop import crop_settings


@dataclasses.dataclass(frozen=True)
class Raw:
    """An example that was read: what is kept of it as it is, {modality: its crops `[crops, …]`}, and the fields of
    pictures that no tokenizer reads.
    """

    kept: dict
    crops: dict
    left_out: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Failure:
    """An example that could not be read: its number in the split, and why."""

    index: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an example becomes a record.

    tokenizers: {name: (Tokenizer, its modalities)}; palette: a field, or ""; crop: min_scale and flip of the random
    crops (`image.crop_settings`).
    """

    tokenizers: dict
    palette: str
    crop: dict

    def read(self, source, index: int, crops: int) -> Raw | Failure:
        """Whatever is wrong with one example is no reason to stop for the others."""
        try:
            return self._read(source[index], crops)
        except Exception as e:
            return Failure(index, f"{type(e).__name__}: {e}")

    @property
    def modalities(self) -> tuple:
        return tuple(m for _, owned in self.tokenizers.values() for m in owned)

    @property
    def fields(self) -> frozenset[str]:
        """What is read of an example."""
        return frozenset(m.fields[0] for m in self.modalities) | {self.palette}

    def _read(self, example, crops) -> Raw:
        example = {field: gathered(value) for field, value in example.items()}
        present = [m for m in self.modalities if example.get(m.fields[0]) is not None]
        vectors = [m for m in present if m.form == "vectors"]
        pixels = [m for m in present if m.pictures]
        taken = {m.field for m in vectors} | {m.fields[0] for m in pixels}
        kept = {k: v for k, v in example.items() if k not in taken and not is_picture(v) and not is_clip(v)}
        out = {m.name: np.asarray(example[m.field], np.float32)[None] for m in vectors}
        if pixels:
            shapes = {m.name: kinds.of(m).size(example[m.fields[0]]) for m in pixels}
            frame = common_frame(shapes, f"row {example['row']}")
            height, width = pixels[0].shape[-3:-1]
            rng = np.random.default_rng(int(example["row"]))
            settings = crop_settings(rng, crops, frame, aspect=width / height, **self.crop)
            kept["crop_settings"] = settings.astype(np.int32)
        for m in pixels:
            out[m.name] = np.stack([read_pictures(example, m, s, frame) for s in settings])
        if self.palette and example.get(self.palette) is not None:
            image = as_channels(as_picture(example[self.palette]), 3)
            kept["palettes"] = palettes(image, min(64, max(image.shape) // 2))  # those of small pictures at half size
        encode_record(kept)  # what no store can hold is a failure of this example, not of the job
        return Raw(kept, out, frozenset(k for k, v in example.items() if is_picture(v) or is_clip(v)) - self.fields)

    def encode(self, raws) -> list[dict]:
        """Read examples → records; each tokenizer runs once over all crops of all of them."""
        records = [dict(raw.kept) for raw in raws]
        for tokenizer, modalities in self.tokenizers.values():
            places = [(i, m.name) for m in modalities for i, raw in enumerate(raws) if m.name in raw.crops]
            if not places:
                continue
            crops = [raws[i].crops[name] for i, name in places]
            ids = tokenizer.encode(np.concatenate(crops)).astype(np.min_scalar_type(tokenizer.vocab_size - 1))
            ends = np.cumsum([len(c) for c in crops])[:-1]
            for (i, name), rows in zip(places, np.split(ids, ends)):
                records[i][name] = rows
        return records
