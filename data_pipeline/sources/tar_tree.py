"""The tar trees of 4M: `PATH/SPLIT/MODALITY/shard-00000.tar` with a member KEY.EXT an example, aligned by key."""

import hashlib
from pathlib import Path

import numpy as np

from data_pipeline.folders import Ignored, check_file, entries
from data_pipeline.shards import expand_braces, in_order
from data_pipeline.tar import read_index

MISSING = ("skip", "absent")


class Source:
    """Random access to the examples of one or several splits, tar by tar, in the order of the keys in them.

    A modality is a field of that name, read as `data_pipeline.decoding` does by the suffix: token ids of `.npy`,
    texts of `.txt` and `.json`, images. `row` is np.int64, the number in the given splits. Examples are aligned by
    their key within the tars of one name, whatever the order in them.

    Args:
      path: the folder of the splits; local or mounted.
      split: a name or a tuple of them.
      modalities: the folders to read; () for all that some split has.
      shards: the names of the tars to read without their suffix, with ranges in braces: `shard-{00000..00099}`; "" for
        all that some modality has.
      outside: whether links may lead out of the folder, see `data_pipeline.folders`.
      missing: what becomes of a key that some modality lacks: `skip` leaves it out, `absent` gives the example without
        that field. `report` counts them.

    Raises:
      FileNotFoundError: no such folder, modality or tar.
      ValueError: unknown split, no example at all, a broken tar, a key twice; on reading, a broken member.
    """

    def __init__(self, path, split="train", modalities=(), shards="", missing="skip", outside: bool = False):
        splits = (split,) if isinstance(split, str) else tuple(split)
        if missing not in MISSING:
            raise ValueError(f"missing={missing!r}: must be one of {', '.join(MISSING)}")
        root, ignored = Path(path).expanduser(), Ignored()
        folders = [_split_folder(root, name) for name in splits]
        modalities = (modalities,) if isinstance(modalities, str) else tuple(modalities)
        self._modalities = modalities or tuple(sorted({name for f in folders for name in _subfolders(f, ignored)}))
        tars = [_tars(root, folder, self._modalities, shards, outside, ignored) for folder in folders]
        self._indexes = {}
        for m in self._modalities:
            found = [t for by_modality in tars for t in by_modality[m].values()]
            if not found:
                raise FileNotFoundError(f"modality {m!r}: {path} has no {'|'.join(splits)}/{m}/*.tar")
            self._indexes[m] = read_index(found)
            _check_one_member(self._indexes[m])
        self._at, aligned = self._align(tars, missing)
        self.report = "; ".join(filter(None, [aligned, str(ignored)]))
        if not len(self._at):
            raise ValueError(f"split={split!r}: {path} has no key that all modalities share: {self.report}")

    def _align(self, tars, missing):
        """(int64[n, modalities], the row of each example in a modality's index, -1 for none; report)."""
        rows, lacking, total = [], {}, 0
        starts = {m: _rows_of_shards(index) for m, index in self._indexes.items()}
        for by_modality in tars:
            for name in sorted({name for found in by_modality.values() for name in found}):
                spans = [starts[m].get(str(by_modality[m].get(name)), range(0)) for m in self._modalities]
                keys = [self._indexes[m].keys[s.start : s.stop] for m, s in zip(self._modalities, spans)]
                at = _match(keys)
                total += len(at)
                for column, m in enumerate(self._modalities):
                    lost = np.flatnonzero(at[:, column] < 0)
                    if len(lost):
                        other = int((at[lost[0]] >= 0).argmax())
                        count, first = lacking.get(m, (0, f"{name}: {keys[other][at[lost[0], other]].decode()}"))
                        lacking[m] = count + len(lost), first
                at = np.where(at < 0, -1, at + [s.start for s in spans])
                rows.append(at if missing == "absent" else at[(at >= 0).all(1)])
        rows = np.concatenate(rows) if rows else np.zeros((0, len(self._modalities)), np.int64)
        lines = [line for index in self._indexes.values() for line in index.report]
        if lacking:
            done = f"{total - len(rows):,} of {total:,} keys skipped" if missing == "skip" else f"of {total:,} keys"
            each = ", ".join(f"{count:,} lack {m} (the first: {first})" for m, (count, first) in lacking.items())
            lines.insert(0, f"{done}: {each}")
        return rows, "; ".join(lines)

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(self._modalities)

    def __len__(self) -> int:
        return len(self._at)

    @staticmethod
    def available(path) -> list[str]:
        """The splits that a folder has."""
        path = Path(path).expanduser()
        if not path.is_dir():
            raise FileNotFoundError(f"path={str(path)!r}: no such folder")
        return in_order(name for name in _subfolders(path, Ignored()) if any((path / name).glob("*/*.tar")))

    def __getitem__(self, index: int) -> dict:
        return self.pick(index, self.fields)

    def pick(self, index: int, fields, texts=()) -> dict:
        """The example with these fields alone; no other member is read."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        example = {}
        for m, row in zip(self._modalities, self._at[index].tolist()):
            if row >= 0 and m in fields:
                members = self._indexes[m]
                example[m] = members.read(row, int((members.place[row, :, 0] >= 0).argmax()))
        return example | {"row": np.int64(index)}

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the members change, and only then.
        marks = ", ".join(f"{m}:{index.digest}" for m, index in self._indexes.items())
        return f"tar_tree.Source({hashlib.sha256(self._at.tobytes()).hexdigest()[:12]}, {marks})"


def _split_folder(path: Path, split: str) -> Path:
    if not path.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: no such folder")
    if not (path / split).is_dir():
        raise ValueError(f"split={split!r}: {path} has {', '.join(_subfolders(path, Ignored()))}")
    return path / split


def _subfolders(path: Path, ignored: Ignored) -> list[str]:
    return [name for name in entries(path, ignored) if (path / name).is_dir()]


def _tars(root, folder: Path, modalities, shards: str, outside: bool, ignored: Ignored) -> dict[str, dict[str, Path]]:
    """{modality: {name: path}}: each has the tars of some names."""
    found = {}
    for m in modalities:
        names = entries(folder / m, ignored, root) if (folder / m).is_dir() else ()
        tars = [name for name in names if name.endswith(".tar")]
        found[m] = {name.removesuffix(".tar"): check_file(root, folder / m / name, outside) for name in tars}
    if not shards:
        return found
    names = expand_braces(shards)
    for name in names:
        if not any(name in tars for tars in found.values()):
            raise FileNotFoundError(f"shards={shards!r}: no modality of {folder} has {name}.tar")
    return {m: {name: tars[name] for name in names if name in tars} for m, tars in found.items()}


def _rows_of_shards(index) -> dict[str, range]:
    """{path of a tar: its rows of the index}."""
    ends = np.searchsorted(index.shard, np.arange(len(index.shards)), "right").tolist()
    return {shard: range(start, end) for shard, start, end in zip(index.shards, [0, *ends], ends)}


def _match(keys) -> np.ndarray:
    """Keys of each modality → int64[n, modalities]: where each key of any of them is in each, -1 for nowhere."""
    if all(np.array_equal(k, keys[0]) for k in keys[1:]):
        return np.repeat(np.arange(len(keys[0]))[:, None], len(keys), axis=1)
    numbers = {key: i for i, key in enumerate(dict.fromkeys(key for k in keys for key in k.tolist()))}
    at = np.full((len(numbers), len(keys)), -1)
    for column, k in enumerate(keys):
        at[[numbers[key] for key in k.tolist()], column] = np.arange(len(k))
    return at


def _check_one_member(index):
    held = (index.place[..., 0] >= 0).sum(1)
    if len(held) and held.max() > 1:
        row = int(held.argmax())
        names = ", ".join(f".{ext}" for c, ext in enumerate(index.columns) if index.has(row, c))
        raise ValueError(f"{index.where(row)}: this key is there twice, as {names}; keep one")
