"""Shards of a store that is being made, and what is noted of each that is finished, so that none is made twice."""

import dataclasses
import json
from pathlib import Path

import grain
import numpy as np

from data_pipeline.sources.tokens import shard_file, write_shard
from pretrain.storage import write
from tools.tokenize.recipe import Failure, Raw, Recipe

CHUNK = 32  # examples that are tokenized together


@dataclasses.dataclass(frozen=True)
class Shard:
    """Examples `start … stop - 1` of a split."""

    split: str
    number: int
    start: int
    stop: int

    def about(self, out: Path) -> dict | None:
        """What was noted of it when it was finished; None before."""
        note = self._note(out)
        return json.loads(note.read_text()) if note.exists() else None

    def finish(self, out: Path, about: dict):
        write_json(self._note(out), about)

    def _note(self, out: Path) -> Path:
        return out / "progress" / f"{self.split}-{self.number:05d}.json"


class TooManyFailures(Exception):
    """What `--max-failures` stops at."""


def make_shard(shard: Shard, out: Path, source, recipe: Recipe, crops: int, room: int, bar) -> dict:
    """Writes a shard and returns what is noted of it: its manifest entry, its failures, and which codes it uses.

    room: how many failures are still allowed; bar: a progress bar of examples.
    """
    used = {name: np.zeros(t.vocab_size, bool) for name, (t, _) in recipe.tokenizers.items()}
    failures, left_out = [], set()
    read = grain.MapDataset.range(shard.start, shard.stop).map(lambda i: recipe.read(source, int(i), crops))
    read = iter(read.to_iter_dataset(grain.ReadOptions(num_threads=16, prefetch_buffer_size=2 * CHUNK)))

    def records():
        for start in range(shard.start, shard.stop, CHUNK):
            found = [next(read) for _ in range(start, min(start + CHUNK, shard.stop))]
            failures.extend({"split": shard.split, **dataclasses.asdict(f)} for f in found if isinstance(f, Failure))
            if len(failures) > max(room, 0):
                write_quarantine(out, failures)
                raise TooManyFailures(f"{failures[-1]}")
            raws = [f for f in found if isinstance(f, Raw)]
            left_out.update(*(raw.left_out for raw in raws))
            made = recipe.encode(raws)
            for name, (_, modalities) in recipe.tokenizers.items():
                for m in modalities:
                    for record in (r for r in made if m.name in r):
                        used[name][record[m.name]] = True
            yield from made
            bar.update(len(found))

    about = write_shard(out / shard_file(shard.split, shard.number), records())
    codes = {name: np.packbits(mask).tobytes().hex() for name, mask in used.items()}
    return about | {"failures": failures, "left_out": sorted(left_out), "codes": codes}


def failures_so_far(out: Path) -> list[dict]:
    """The failures of all finished shards, in their order."""
    notes = [json.loads(note.read_text()) for note in sorted((out / "progress").glob("*.json"))]
    return [f for note in notes for f in note["failures"]]


def write_quarantine(out: Path, more=()):
    """quarantine.jsonl: the failures of all finished shards, and `more`; no file if there is none."""
    failures = [*failures_so_far(out), *more]
    if failures:
        write_text(out / "quarantine.jsonl", "".join(json.dumps(f, ensure_ascii=False) + "\n" for f in failures))


def write_json(file: Path, value):
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str):
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, text)
