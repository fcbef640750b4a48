"""Retrieval among emoji as tasks with an instruction: a query, what it asks for, and others that it does not."""

import zlib
from collections.abc import Iterable

import numpy as np

from data_pipeline.sources import emoji
from data_pipeline.text import LANGUAGES

TEXTS, STYLES = ("name", "keywords"), ("render3d", "flat", "noto")
MOST = 8  # negatives
ENDS = ("", "/positive", *(f"/negative{i + 1}" for i in range(MOST)))


class Source:
    """Random access to the examples of one task, as the transform `instructed` reads them; several are a mixture.

    An example is a dict of
      row: np.int64
      instruction: str, says what is asked for
      text, image: the query, a str and uint8[64, 64, 3], or one of them
      text/positive, image/positive: what it asks for; text/negativeN, image/negativeN: the same of other emoji
      language: of the name in the query

    Args:
      split: as of the source `emoji`.
      query, asks: what of an emoji is shown, and asked for: `name`, `keywords`, or a style of its picture, `render3d`,
        `flat` or `noto`; a text and a picture are joined by +.
      instruction: of the task.
      languages: of the names in queries; each emoji is there in each of them that it has a name in, and has keywords
        where these are shown or asked for. Names that are asked for are English.
      negatives: so many others of its subgroup at most, of which a small one has fewer.
      misaligned: the share of examples whose positive is another emoji's.

    Raises:
      ValueError: unknown split, field or language, or settings out of range.
    """

    fields = frozenset({"instruction", "language", *(f"{name}{end}" for name in ("text", "image") for end in ENDS)})
    available = staticmethod(emoji.Source.available)

    def __init__(self, split="train", query: str = "name", asks: str = "render3d", instruction: str = "",
                 languages: Iterable[str] = ("en",), negatives: int = 0, misaligned: float = 0.0):  # fmt: skip
        self._emoji, self._split = emoji.Source(split), split
        self._languages = (languages,) if isinstance(languages, str) else tuple(languages)
        if not self._languages or not set(self._languages) <= set(LANGUAGES):
            raise ValueError(f"languages={self._languages}: name some of {', '.join(LANGUAGES)}")
        if query == asks and self._languages == ("en",):
            raise ValueError(f"query={query!r}, asks={asks!r}: a query would ask for itself; ask for something else")
        if not 0 <= negatives <= MOST or not 0 <= misaligned <= 1:
            raise ValueError(f"negatives={negatives}, misaligned={misaligned}: must be 0…{MOST}, and a share")
        self._query, self._asks = _fields("query", query), _fields("asks", asks)
        self._instruction, self._negatives, self._misaligned = instruction, negatives, misaligned
        self._groups, self._examples = {}, []
        for number, meta in enumerate(self._emoji.metadata):
            if meta["keywords"]["en"] or "keywords" not in self._query + self._asks:
                self._groups.setdefault(meta["subgroup"], []).append(number)
                named = self._languages if "name" in self._query else self._languages[:1]
                self._examples += [(number, at) for at in named if at in meta["name"] or "name" not in self._query]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} examples")
        number, language = self._examples[index]
        own = self._emoji[number]
        group = self._groups[own["subgroup"]]
        place = group.index(number)
        others = (group[place + 1 :] + group[:place])[: self._negatives]
        out = _shown(own, self._query, language, "") | _shown(self._positive(own, index), self._asks, "en", "/positive")
        for i, other in enumerate(others):
            out |= _shown(self._emoji[other], self._asks, "en", f"/negative{i + 1}")
        return out | {"row": np.int64(index), "instruction": self._instruction, "language": language}

    def _positive(self, own: dict, index: int) -> dict:
        rng = np.random.default_rng([zlib.crc32(f"{self._split} {self._query} {self._asks}".encode()), index])
        if rng.random() >= self._misaligned:
            return own
        return self._emoji[self._examples[int(rng.integers(len(self)))][0]]

    def __repr__(self) -> str:
        # A resumed run compares this with its checkpoint's: it must change when the data change, and only then.
        return (
            f"emoji_tasks.Source({self._emoji!r}, query={self._query}, asks={self._asks}, languages={self._languages}, "
            f"instruction={self._instruction!r}, negatives={self._negatives}, misaligned={self._misaligned})"
        )


def _fields(key: str, value: str) -> tuple[str, ...]:
    fields = tuple(value.split("+"))
    if sum(f in TEXTS for f in fields) > 1 or sum(f in STYLES for f in fields) > 1 or set(fields) - {*TEXTS, *STYLES}:
        raise ValueError(
            f"{key}={value!r}: must be one of {', '.join((*TEXTS, *STYLES))}, or a text and a picture joined by +"
        )
    return fields


def _shown(example: dict, fields, language: str, end: str) -> dict:
    made = {"name": lambda: example["name"].get(language), "keywords": lambda: ", ".join(example["keywords"])}
    read = {f: made[f]() if f in made else example[f] for f in fields}
    return {f"text{end}" if f in made else f"image{end}": value for f, value in read.items()}
