"""Simulated scenes of two coloured silhouettes of emoji, one beside or above the other, and what a scene graph has."""

import zlib

import numpy as np

from data_pipeline.drawn import Drawn
from data_pipeline.sources.coloured_emoji import COLOURS, PLACES, SHAPES, draw

RELATIONS = ("left of", "right of", "above", "below")


class Source(Drawn):
    """Random access to scenes; what one shows hangs on its number, the split and the settings alone.

    An example is a dict of
      row: np.int64
      picture: uint8[side, side, 3], two silhouettes on white, of different shapes and colours
      caption: ["the red star is left of the blue bus", "the star is red and the bus is blue"]
      objects: ["star", "bus"]; attributes: ["red", "blue"]; relation: "left of", of the first to the second

    Args:
      split: "train", "val" or "test", or a tuple of them: other scenes of the same silhouettes.
      scenes: of the training split; the others have a tenth.
      side: of the picture, in pixels.

    Raises:
      ValueError: unknown split, or settings out of range.
    """

    fields = frozenset({"picture", "caption", "objects", "attributes", "relation"})

    def __init__(self, split="train", scenes: int = 10_000, side: int = 48):
        super().__init__(split, scenes, 10)
        if scenes < 10 or side < 24:
            raise ValueError(f"scenes={scenes}, side={side}: need at least 10 scenes of 24 pixels and more")
        self._scenes, self._side = scenes, side

    def __getitem__(self, index: int) -> dict:
        split, at = self._place(index)
        rng = np.random.default_rng([zlib.crc32(split.encode()), at])
        colours, shapes = (rng.choice(n, 2, replace=False) for n in (len(COLOURS), len(SHAPES)))
        relation, line = RELATIONS[rng.integers(len(RELATIONS))], rng.integers(PLACES)
        along = np.sort(rng.choice(PLACES, 2, replace=False))
        if relation in ("right of", "below"):
            along = along[::-1]
        places = line * PLACES + along if relation in RELATIONS[:2] else along * PLACES + line
        (x, y), (a, b) = (list(COLOURS)[c] for c in colours), (SHAPES[s] for s in shapes)
        return {
            "row": np.int64(index),
            "picture": draw(colours * len(SHAPES) + shapes, places, self._side, rng)[0],
            "caption": [f"the {x} {a} is {relation} the {y} {b}", f"the {a} is {x} and the {b} is {y}"],
            "objects": [a, b],
            "attributes": [x, y],
            "relation": relation,
        }

    def __repr__(self) -> str:
        return f"related_emoji.Source(split={self._splits!r}, scenes={self._scenes}, side={self._side})"
