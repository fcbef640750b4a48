"""Simulated scenes of emoji with a detector's view of them: objects, boxes, labels, and a sentence or a question."""

import functools
import zlib

import numpy as np

from data_pipeline.drawn import Drawn
from data_pipeline.sources import emoji

KINDS = (
    *("dog", "cat", "horse", "camel", "bat", "bear", "bird", "monkey", "egg", "pie", "house", "tent"),
    *("train", "bus", "airplane", "sun", "star", "cloud", "umbrella", "fire", "bell", "drum", "key", "hammer"),
)
STYLES = ("render3d", "flat", "noto")
PLACES = {"left": (0.2, 0.5), "right": (0.8, 0.5), "above": (0.5, 0.2), "below": (0.5, 0.8)}
CELLS, SIDE = 8, 0.3  # of a feature's picture, and of an object's box, in shares of the scene's


class Source(Drawn):
    """Random access to scenes; what one shows hangs on its number and the split alone.

    An example is a dict of
      row: np.int64
      objects: float32[n, 192], the mean colours of 8 × 8 cells of each object's picture in -1…1, in random order
      boxes: float32[n, 4], left, top, right and bottom of each in 0…1, at one of four places and a little beside it
      kinds, styles: float32[n, 2], number in KINDS and in STYLES, and a detector's confidence, which is 1 here
      sentence: "dog left and pie below", of two of the objects, or of a share of the examples a question, "what left"
      answer: the number in KINDS of what lies there, of questions alone

    Args:
      split: "train", "val" or "test", or a tuple of them: other scenes of the same emoji.
      scenes: of the training split; the others have a twentieth.
      objects: of a scene, 2 to 4. questions: their share of the examples.

    Raises:
      ValueError: unknown split, or settings out of range.
    """

    fields = frozenset({"objects", "boxes", "kinds", "styles", "sentence", "answer"})

    def __init__(self, split="train", scenes: int = 10_000, objects: int = 3, questions: float = 0.5):
        super().__init__(split, scenes, 20)
        if scenes < 20 or not 2 <= objects <= len(PLACES) or not 0 <= questions <= 1:
            raise ValueError(
                f"scenes={scenes}, objects={objects}, questions={questions}: need at least 20 scenes, 2…{len(PLACES)} "
                "objects, and a share of questions"
            )
        self._scenes, self._objects, self._questions = scenes, objects, questions

    def __getitem__(self, index: int) -> dict:
        split, at = self._place(index)
        rng = np.random.default_rng([zlib.crc32(split.encode()), at])
        kinds = rng.choice(len(KINDS), self._objects, replace=False)
        styles = rng.integers(len(STYLES), size=self._objects)
        places = rng.permutation(len(PLACES))[: self._objects]
        centres = np.array(list(PLACES.values()))[places] + rng.uniform(-0.04, 0.04, (self._objects, 2))
        half = SIDE / 2 * rng.uniform(0.8, 1.2, (self._objects, 1))
        names, where = [KINDS[k] for k in kinds], [list(PLACES)[p] for p in places]
        a, b = rng.choice(self._objects, 2, replace=False)
        asks = rng.random() < self._questions
        sure = np.ones(self._objects, np.float32)
        return {
            "row": np.int64(index),
            "objects": features()[kinds, styles],
            "boxes": np.concatenate([centres - half, centres + half], 1).clip(0, 1).astype(np.float32),
            "kinds": np.stack([kinds, sure], 1).astype(np.float32),
            "styles": np.stack([styles, sure], 1).astype(np.float32),
            "sentence": f"what {where[a]}" if asks else f"{names[a]} {where[a]} and {names[b]} {where[b]}",
            "answer": int(kinds[a]) if asks else None,
        }

    def __repr__(self) -> str:
        return (
            f"emoji_scenes.Source(split={self._splits!r}, scenes={self._scenes}, objects={self._objects}, "
            f"questions={self._questions})"
        )


@functools.cache
def features() -> np.ndarray:
    """float32[KINDS, STYLES, 192]: pictures in CELLS × CELLS mean colours."""
    corpus = emoji.Source("all")
    rows = {meta["name"]["en"]: i for i, meta in enumerate(emoji.metadata())}
    examples = [corpus[rows[name]] for name in KINDS]
    pictures = np.array([[example[style] for style in STYLES] for example in examples], np.float32) / 127.5 - 1
    cells = pictures.reshape(len(KINDS), len(STYLES), CELLS, emoji.CELL // CELLS, CELLS, emoji.CELL // CELLS, 3)
    return cells.mean((3, 5)).reshape(len(KINDS), len(STYLES), -1)
