"""What a folder holds, looked at through the source that reads it."""

import dataclasses
from pathlib import Path

import numpy as np

from data_pipeline.plain_text import as_text
from data_pipeline.shards import KNOWN, find_splits
from data_pipeline.sources import files, tar_tree
from pretrain import build
from pretrain.data import Data
from tools.start import folder

MOST = 200  # examples that are opened, evenly out of all


@dataclasses.dataclass(frozen=True)
class Field:
    """form: `picture` or `text`. share: of the examples that were looked at, those that have it.

    side, channels: of pictures the median of the shorter side in pixels, and the most channels. longest, distinct: of
    texts the 99th percentile of their characters, and how many differ.
    """

    name: str
    form: str
    share: float
    side: int = 0
    channels: int = 0
    longest: int = 0
    distinct: int = 0

    def __str__(self):
        about = f"{self.side} pixels, {self.channels} channels" if self.form == "picture" else self._texts()
        return f"{self.name}: {self.form}s in {self.share:.0%} of the examples, {about}"

    def _texts(self):
        return f"up to {self.longest} characters, {self.distinct} different ones among those looked at"


@dataclasses.dataclass(frozen=True)
class Found:
    """source, path: of `config.data`. splits: {name: examples}. report: what was left out, as the source tells."""

    source: str
    path: str
    splits: dict[str, int]
    fields: tuple[Field, ...]
    report: str = ""

    def pair(self) -> tuple[Field, Field]:
        """The picture and the text to train on. ValueError if there is none of either."""
        for form in ("picture", "text"):
            if self.best(form) is None:
                there = "; ".join(map(str, self.fields)) or "nothing that is one"
                raise ValueError(f"{self.path}: no {form}s among its fields: {there}")
        return self.best("picture"), self.best("text")

    def best(self, form: str) -> Field | None:
        """The field that most examples have; of texts first a caption, then what says most."""
        fields = [f for f in self.fields if f.form == form]
        rank = lambda f: (round(f.share, 1), f.name in ("caption", "text", "txt"), f.longest, f.side)
        return max(fields, key=rank, default=None)


def look(path, held_out: float = 0.1) -> Found:
    """Looks at a folder of pictures and texts; one that has no lists gets them (`folder.write_lists`).

    FileNotFoundError: no folder, or nothing in it that a source reads.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_dir():
        what = "is a file: give the folder that it is in" if path.exists() else "no such folder"
        raise FileNotFoundError(f"{path}: {what}")
    source, splits = _source(path)
    if not source:
        folder.write_lists(path, folder.examples(path), held_out)
        source, splits = "files", ["train", "val"]
    opened = {split: build.source(Data(source, str(path)), split) for split in splits}
    first = opened[splits[0]]
    return Found(
        source, str(path), {split: len(own) for split, own in opened.items()}, tuple(_fields(first)),
        getattr(first, "report", ""),
    )  # fmt: skip


def _source(path: Path) -> tuple[str, list[str]]:
    """(the source that reads a folder as it is, its splits); ("", []) if none does."""
    for source, suffix in (("parquet", ".parquet"), ("webdataset", ".tar")):
        if splits := find_splits(path, suffix):
            return source, splits
        if any(path.glob(f"*{suffix}")):
            raise ValueError(f"{path}: no name says which *{suffix} are of which split: call them train-*{suffix}, …")
    if splits := tar_tree.Source.available(path):
        return "tar_tree", splits
    try:
        splits = [name for name in files.Source.available(path) if name in KNOWN]
    except FileNotFoundError:
        splits = []
    return ("files", splits) if splits else ("", [])


def _fields(source) -> list[Field]:
    seen, count = {}, min(MOST, len(source))
    for i in np.linspace(0, len(source) - 1, count).astype(int):
        for name, value in source[int(i)].items():
            if name != "row" and (told := _tell(value)):
                seen.setdefault(name, []).append(told)
    fields = []
    for name, values in sorted(seen.items()):
        forms = [form for form, _ in values]
        form = max(sorted(set(forms)), key=forms.count)
        told, share = [value for f, value in values if f == form], len(values) / count
        if form == "picture":
            side, channels = int(np.median([min(shape[:2]) for shape in told])), max(shape[2] for shape in told)
            fields.append(Field(name, form, share, side=side, channels=channels))
        else:
            texts = [text for own in told for text in own]
            longest = int(np.percentile([len(text) for text in texts], 99))
            fields.append(Field(name, form, share, longest=longest, distinct=len(set(texts))))
    return fields


def _tell(value):
    """(`picture`, its shape), (`text`, its texts), or None of anything else."""
    if isinstance(value, np.ndarray):
        return ("picture", value.shape) if value.dtype == np.uint8 and value.ndim == 3 else None
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(v, str) for v in values):
        return None
    texts = [text for text in map(as_text, values) if text]
    return ("text", texts) if texts else None
