"""A knowledge graph of one's own: triples in tab-separated lines, as FB15k-237 and YAGO3-10 have them, and arrays."""

import functools
from pathlib import Path

import numpy as np

from data_pipeline import graphs
from data_pipeline.graphs import ENTITIES, SPLITS


class Source(graphs.Triples):
    """`PATH/SPLIT.txt` of the splits `train`, `val`, `test` has one triple a line: head, relation and tail, with tabs
    between them. `PATH/entities.txt` and `PATH/relations.txt` name them in the order of their numbers, one a line: what
    triples call it, and behind a tab, if it has another, its text. `PATH/NAME.npy` is a view NAME of all entities,
    float `[entities, width]`. Examples are as in `data_pipeline.graphs`.

    Args:
      path: the folder.
      split: one of these, a tuple of them, or `entities`.

    Raises:
      FileNotFoundError: a file that is not there.
      ValueError: a line that is no triple or names what there is not; a view of another length.
    """

    def __init__(self, path, split="train"):
        splits = (split,) if isinstance(split, str) else tuple(split)
        found = self.available(path)
        if unknown := [name for name in splits if name not in found]:
            raise ValueError(f"split={unknown[0]!r}: {path} has {', '.join(found)}")
        super().__init__(_graph(str(Path(path).expanduser())), split)

    @staticmethod
    def available(path) -> list[str]:
        """The splits that a folder has. FileNotFoundError if it lists no entities or has no triples."""
        path = Path(path).expanduser()
        found = [name for name in SPLITS if (path / f"{name}.txt").exists()]
        lacking = [name for name in ("entities", "relations") if not (path / f"{name}.txt").exists()]
        if lacking or not found:
            needs = f"{lacking[0]}.txt" if lacking else "train.txt"
            raise FileNotFoundError(f"path={str(path)!r}: no knowledge graph: it must hold {needs}")
        return [*found, ENTITIES]


@functools.lru_cache(2)
def _graph(path: str) -> graphs.Graph:
    path = Path(path)
    names = {kind: _names(path / f"{kind}.txt") for kind in ("entities", "relations")}
    numbers = {kind: {name: i for i, name in enumerate(found)} for kind, found in names.items()}
    triples = {name: _triples(path / f"{name}.txt", numbers) for name in SPLITS if (path / f"{name}.txt").exists()}
    views = {file.stem: np.load(file, mmap_mode="r") for file in sorted(path.glob("*.npy"))}
    count = len(names["entities"])
    for name, x in views.items():
        if x.ndim != 2 or len(x) != count:
            raise ValueError(f"{path}/{name}.npy: shape {x.shape}; it must be [{count} entities, width]")
    return graphs.Graph(*(tuple(found.values()) for found in names.values()), triples, views)


def _names(file: Path) -> dict[str, str]:
    """{what triples call it: its text}, in order."""
    lines = [line.split("\t") for line in file.read_text("utf8").splitlines() if line.strip()]
    found = {name: (rest or [name])[0] for name, *rest in lines}
    if len(found) < len(lines):
        names = [name for name, *_ in lines]
        raise ValueError(f"{file}: {next(n for n in names if names.count(n) > 1)!r} is there twice; name each once")
    return found


def _triples(file: Path, numbers: dict) -> np.ndarray:
    kinds, out = ("entities", "relations", "entities"), []
    for at, line in enumerate(file.read_text("utf8").splitlines(), 1):
        if not line.strip():
            continue
        parts = line.rstrip("\r\n").split("\t")
        if len(parts) != 3:
            raise ValueError(f"{file}, line {at}: {line!r:.80}: write head, relation and tail with tabs between them")
        for kind, name in zip(kinds, parts):
            if name not in numbers[kind]:
                raise ValueError(f"{file}, line {at}: {name!r} is not in {kind}.txt: add it there")
        out.append([numbers[kind][name] for kind, name in zip(kinds, parts)])
    if not out:
        raise ValueError(f"{file}: no triple; fill it or leave it out")
    return np.asarray(out, np.int64)
