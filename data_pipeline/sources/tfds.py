"""Builders of TensorFlow Datasets in ArrayRecord files, read through `tfds.data_source`: no TensorFlow is needed."""

import functools
import hashlib
import re
from pathlib import Path

import numpy as np

from data_pipeline.folders import data_file, is_system
from data_pipeline.shards import in_order

# Any random-access format that tfds can read without TensorFlow; its default, TFRecord, has no random access.
REMEDY = "prepare it with `tfds build --file_format=array_record`"


class Source:
    """Random access to the examples of one or several splits, in the order of the builder's files.

    The features are the fields: images uint8[H, W, C], texts str, lists of texts, numbers, arrays, nested dicts. A
    class label is the class's name, where the builder names them, else its number. `row` is np.int64, the number in
    the given splits.

    Args:
      path: the folder of a prepared builder, with its `dataset_info.json`; or a folder above it such as DATA_DIR/NAME
        or DATA_DIR/NAME/CONFIG, of which the newest version is taken.
      split: a name, a part of one such as `train[:90%]`, or a tuple of them.
      outside: whether the builder's files may lie outside its folder, see `data_pipeline.folders`.

    Raises:
      FileNotFoundError: no builder there, or several.
      ValueError: unknown or empty split, files without random access; on reading, a broken record.
    """

    def __init__(self, path, split="train", outside: bool = False):
        self._folder = _builder_folder(Path(path))
        self._split = split if isinstance(split, str) else "+".join(split)
        names = [name.partition("[")[0] for name in self._split.split("+")]
        info = _builder(str(self._folder)).info
        unknown = [name for name in names if name not in info.splits]
        if unknown:
            raise ValueError(f"split={unknown[0]!r}: {self._folder} has {', '.join(info.splits)}")
        if info.file_format.value != "array_record":
            raise ValueError(f"{self._folder}: its {info.file_format.value} files have no random access; {REMEDY}")
        files = [f for name in names for f in info.splits[name].filenames]
        shards = [(f, data_file(self._folder, f, outside).stat().st_size) for f in files]
        digest = hashlib.sha256(repr((self._split, shards)).encode()).hexdigest()[:12]
        self._repr = f"tfds.Source({info.full_name}, {self._split}, files={digest})"
        self.fields = frozenset(info.features)
        self._length = len(self._records)
        if not self._length:
            raise ValueError(f"split={split!r}: {self._folder} holds no example of it")

    @staticmethod
    def available(path) -> list[str]:
        """The splits that a builder has."""
        return in_order(_builder(str(_builder_folder(Path(path)))).info.splits)

    @functools.cached_property
    def _records(self):
        return _builder(str(self._folder)).as_data_source(split=self._split)

    @functools.cached_property
    def _features(self):
        return _builder(str(self._folder)).info.features

    def __getstate__(self):
        # A worker opens the files itself.
        return {k: v for k, v in self.__dict__.items() if k not in ("_records", "_features")}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        try:
            record = self._records[int(index)]
        except Exception as e:  # of protobuf, Pillow, OpenCV and ArrayRecord
            raise ValueError(
                f"{self._folder}, {self._split}: example {index} is not readable ({e}); prepare it again"
            ) from e
        example = {name: self._value(name, value, index) for name, value in record.items()}
        return {name: value for name, value in example.items() if value is not None} | {"row": np.int64(index)}

    def _value(self, name, value, index):
        try:
            return _value(self._features[name], value)
        except UnicodeDecodeError as e:
            raise ValueError(
                f"{self._folder}, {self._split}: example {index}: {name}: no text in UTF-8 ({e}); mend the data, or "
                "make the feature another than Text"
            ) from e

    def __repr__(self) -> str:
        return self._repr


@functools.cache
def _builder(folder: str):
    # This import takes a second: those who read nothing of it do not wait.
    import tensorflow_datasets

    return tensorflow_datasets.builder_from_directory(folder)


def _builder_folder(path: Path) -> Path:
    """The folder of a builder, itself or the newest version of the only one below."""
    path = path.expanduser()
    if (path / "dataset_info.json").exists():
        return path
    found = [file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/dataset_info.json")]
    # Not hidden folders, and not `1.0.0.incompleteABC` or `incomplete.ABC_1.0.0`, what a stopped build has left.
    found = [f for f in found if not is_system(f.relative_to(path)) and re.fullmatch(r"\d+(\.\d+)*", f.name)]
    configs = sorted({folder.parent for folder in found})
    if len(configs) != 1:
        known = f"it has {', '.join(map(str, configs))}; name one" if configs else REMEDY
        raise FileNotFoundError(f"path={str(path)!r}: no prepared builder (dataset_info.json) of TFDS: {known}")
    return max(found, key=lambda folder: [int(n) for n in folder.name.split(".")])


def _value(feature, value):
    """A value as tfds decodes it → as the pipeline reads it."""
    names = getattr(feature, "names", None)
    if isinstance(value, dict):
        inner = getattr(feature, "feature", feature)  # of a Sequence of dicts
        return {k: _value(_inside(inner, k), v) for k, v in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf8")
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [_value(getattr(feature, "feature", feature), v) for v in value]
    if names and isinstance(value, int | np.integer):
        numbered = names == [str(n) for n in range(len(names))]
        return int(value) if numbered or value < 0 else names[int(value)]
    return value


def _inside(feature, key):
    try:
        return feature[key]
    except (KeyError, TypeError):
        return None
