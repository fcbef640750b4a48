"""Knowledge graphs: entities, relations, and triples of both, which a source gives one by one."""

import dataclasses
import functools
import hashlib

import numpy as np

ENTITIES, SPLITS = "entities", ("train", "val", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """entities, relations: their texts, by number; triples: {split: int `[n, 3]`, head, relation, tail}; views: {name:
    float32 `[entities, width]`}, what is known of every entity, such as vectors of its text."""

    entities: tuple[str, ...]
    relations: tuple[str, ...]
    triples: dict[str, np.ndarray]
    views: dict[str, np.ndarray]

    @functools.cached_property
    def digest(self) -> str:
        found = hashlib.sha256("\n".join((*self.entities, *self.relations)).encode())
        for name, x in sorted((self.triples | self.views).items()):
            found.update(name.encode() + np.ascontiguousarray(x).tobytes())
        return found.hexdigest()[:12]


class Triples:
    """Random access to the triples of some splits of a graph, one behind another, or to its entities.

    An example is a dict of
      row: np.int64, its number
      head, relation, tail: np.int64, numbers of entities and of a relation; of an entity none of them
      text: str, of the head, or the entity
      a view's name: float32 `[width]`, of the head, or the entity

    Raises:
      ValueError: unknown split, or `entities` beside others.
    """

    def __init__(self, graph: Graph, split):
        self._splits = (split,) if isinstance(split, str) else tuple(split)
        known = (*graph.triples, ENTITIES)
        if not set(self._splits) <= set(known) or (ENTITIES in self._splits and len(self._splits) > 1):
            raise ValueError(f"split={split!r}: use some of {', '.join(graph.triples)}, or {ENTITIES} alone")
        self._graph = graph
        listed = self._splits == (ENTITIES,)
        self._triples = None if listed else np.concatenate([graph.triples[name] for name in self._splits])

    @property
    def fields(self) -> frozenset[str]:
        return frozenset({"text", *self._graph.views, *(() if self._triples is None else ("head", "relation", "tail"))})

    def __len__(self) -> int:
        return len(self._graph.entities if self._triples is None else self._triples)

    def __getitem__(self, index: int) -> dict:
        return self.pick(index, self.fields)

    def pick(self, index: int, fields, texts=()) -> dict:
        """The example with these fields alone: views are wide."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        triple = {} if self._triples is None else dict(zip(("head", "relation", "tail"), self._triples[index]))
        entity = int(triple.get("head", index))
        example = triple | {"text": self._graph.entities[entity]}
        example |= {name: np.asarray(x[entity], np.float32) for name, x in self._graph.views.items() if name in fields}
        return {name: value for name, value in example.items() if name in fields} | {"row": np.int64(index)}

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the data change, and only then.
        return f"{type(self).__module__.rpartition('.')[2]}.Source({', '.join(self._splits)}, {self._graph.digest})"
