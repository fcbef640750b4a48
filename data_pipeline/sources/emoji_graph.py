"""The packaged emoji corpus as a knowledge graph: which keywords an emoji has, its subgroup, and that one's group."""

import collections
import functools
import zlib

import numpy as np

from data_pipeline import graphs
from data_pipeline.graphs import ENTITIES, SPLITS
from data_pipeline.sources import emoji

RELATIONS = ("keyword", "subgroup", "group")
LEAST = 3  # emoji that a keyword must be of, to be an entity
WIDTH = 256  # of a view


class Source(graphs.Triples):
    """2,641 entities: emoji, the keywords of three of them and more, subgroups, groups. Examples are as in
    `data_pipeline.graphs`; an emoji's text is its English name. Views, of unit length, are bags of pieces of a text,
    hashed into 256 signed places: `words`, `letters`, three in a row, and `stems`, the first four letters of words.

    Args:
      split: "train", "val", "test", a tuple of them, or "entities".
      unseen: whether `val` and `test` hold all triples of the corpus's own held-out emoji, of which training then shows
        none; else a tenth each of the triples, drawn once for all by their names. What group a subgroup is of is always
        for training.
    """

    def __init__(self, split="train", unseen: bool = False):
        super().__init__(graph(unseen), split)

    @staticmethod
    def available() -> list[str]:
        return [*SPLITS, ENTITIES]


@functools.cache
def graph(unseen: bool = False) -> graphs.Graph:
    meta = emoji.metadata()
    counts = collections.Counter(word for e in meta for word in e["keywords"]["en"])
    # The same word may be a keyword, a subgroup and a group: each is an entity of its own.
    keys = [("emoji", e["id"]) for e in meta] + [("keyword", w) for w in sorted(counts) if counts[w] >= LEAST]
    keys += [(kind, name) for kind in RELATIONS[1:] for name in sorted({e[kind] for e in meta})]
    number = {key: i for i, key in enumerate(keys)}
    texts = [e["name"]["en"] for e in meta] + [name for kind, name in keys if kind != "emoji"]
    triples = {split: [] for split in SPLITS}
    for i, e in enumerate(meta):
        tails = [("keyword", word) for word in e["keywords"]["en"]] + [("subgroup", e["subgroup"])]
        for kind, name in (tail for tail in tails if tail in number):
            split = e["split"] if unseen else _drawn(f"{e['id']} {kind} {name}")
            triples[split].append((i, RELATIONS.index(kind), number[kind, name]))
    for subgroup, group in sorted({(e["subgroup"], e["group"]) for e in meta}):
        triples["train"].append((number["subgroup", subgroup], RELATIONS.index("group"), number["group", group]))
    found = {split: np.asarray(rows, np.int64) for split, rows in triples.items()}
    views = {name: np.stack([hashed(pieces(text)) for text in texts]) for name, pieces in PIECES.items()}
    return graphs.Graph(tuple(texts), RELATIONS, found, views)


def _drawn(name: str) -> str:
    return {0: "val", 1: "test"}.get(zlib.crc32(name.encode()) % 10, "train")


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def _letters(text: str) -> list[str]:
    return [padded[i : i + 3] for word in _words(text) for padded in [f"<{word}>"] for i in range(len(padded) - 2)]


PIECES = {"words": _words, "letters": _letters, "stems": lambda text: [word[:4] for word in _words(text)]}


def hashed(pieces) -> np.ndarray:
    """A bag of pieces as float32 `[WIDTH]` of unit length: each counts, with a sign of its own, at a place of its own
    (feature hashing, arXiv 0902.2206)."""
    out = np.zeros(WIDTH, np.float32)
    for piece in pieces:
        code = zlib.crc32(piece.encode())
        out[code % WIDTH] += 1.0 if code >> 31 else -1.0
    return out / max(float(np.linalg.norm(out)), 1e-6)
