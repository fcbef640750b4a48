"""The preparation as an Apache Beam pipeline. Pixels stay where they are read: only keys and signatures are shuffled.

read and judge every example → meet duplicates under their keys → keep the first of each → write each shard → report
"""

import collections
import hashlib
import io
import json
import tarfile
import uuid
import zlib

import apache_beam as beam
import fsspec
import numpy as np
from apache_beam.pvalue import AsList, TaggedOutput

from data_pipeline.duplicates import earlier
from data_pipeline.seal import seal
from pretrain import build
from tools.prepare.recipe import Recipe, Unfit

CHUNK, RANGE = 64, 2**16  # examples: that a worker reads at a time, and of which the job's description has an entry


def key_of(row: int) -> str:
    return f"{row:09d}"


def shard_of(split: str, row: int, shards: int) -> int:
    """By a hash: neighbours, which are often alike, are spread."""
    return zlib.crc32(f"{split}/{key_of(row)}".encode()) % shards


def chunks(split: int, start: int, stop: int):
    """The chunks of a range of a split: (split, start, stop) each."""
    for first in range(start, stop, CHUNK):
        yield split, first, min(first + CHUNK, stop)


class _Reader(beam.DoFn):
    """A DoFn that opens the sources itself: they do not travel."""

    def __init__(self, data: build.Data, splits: tuple[str, ...], recipe: Recipe):
        self._data, self._splits, self._recipe, self._sources = data, splits, recipe, {}

    def source(self, split: int):
        if split not in self._sources:
            self._sources[split] = build.source(self._data, self._splits[split])
        return self._sources[split]

    def __getstate__(self):
        return self.__dict__ | {"_sources": {}}

    def dropped(self, split, row, unfit):
        line = {"split": self._splits[split], "key": key_of(row), "step": unfit.step, "reason": unfit.reason}
        return TaggedOutput("dropped", line)


class Judge(_Reader):
    """(split, start, stop) → the examples that are fit: (split, row); `meet`: (key, (split, row, signature))."""

    def process(self, chunk):
        split, start, stop = chunk
        for row in range(start, stop):
            try:
                example, _ = self._recipe.read(self.source(split), row)
                met = list(self._recipe.signatures(example))
            except Unfit as unfit:
                yield self.dropped(split, row, unfit)
                continue
            yield (split, row), None
            for key, signature in met:
                yield TaggedOutput("meet", (key, (split, row, signature)))


class FindEarlier(beam.DoFn):
    """(key, examples that met) → ((split, row, whether the other is of another split), (whether it is only near,
    (other split, other row), field)): the least is the verdict."""

    def __init__(self, recipe: Recipe):
        self._recipe = recipe

    def process(self, met):
        (how, kind, field, _), members = met
        members = list(members)
        if len(members) > 1:
            alike, dtype = self._recipe.alike(kind)
            members = [(split, row, np.frombuffer(signature, dtype)) for split, row, signature in members]
            for split, row, other in earlier(members, alike):
                yield (split, row, other[0] != split), (how == "near", other, field)


class Decide(beam.DoFn):
    """((split, row), {fit, own, other}) → the kept ones; `dropped` and `contamination`: a line each."""

    def __init__(self, splits, drop_contamination: bool):
        self._splits, self._drop = splits, drop_contamination

    def process(self, joined):
        (split, row), found = joined
        own, other = ([line(v, self._splits, split, row) for v in found[name]] for name in ("own", "other"))
        if not self._drop:
            yield from (TaggedOutput("contamination", o) for o in other)
        reasons = (other if self._drop else []) + own
        if reasons:
            yield TaggedOutput("dropped", reasons[0])
        else:
            yield split, row


def line(verdict, splits, split, row) -> dict:
    near, (of_split, of_row), field = verdict
    step = f"{'near' if near else 'exact'} {'duplicate' if of_split == split else 'contamination'}"
    of = f"{splits[of_split]}/{key_of(of_row)}"
    reason = f"{field}: {'like' if near else 'the same as'} that of {of}"
    return {"split": splits[split], "key": key_of(row), "step": step, "reason": reason, "of": of}


class WriteShard(_Reader):
    """((split, shard), rows) → what was written. The rows are read again: no pixel was shuffled."""

    def __init__(self, data, splits, recipe, out: str):
        super().__init__(data, splits, recipe)
        self._out = out

    def setup(self):
        self._labels = self._recipe.open_labels()

    def __getstate__(self):
        return super().__getstate__() | {"_labels": None}

    def process(self, element):
        (split, shard), rows = element
        name = f"{self._splits[split]}/{shard:05d}.tar"
        count, removed, dropped = 0, 0, []
        with NewFile(f"{self._out}/{name}") as file, tarfile.open(fileobj=file, mode="w|") as tar:
            for row in sorted(rows):
                try:
                    example, gone = self._recipe.read(self.source(split), row)
                    members = self._recipe.members(example, self._labels)
                except Unfit as unfit:
                    dropped.append(self.dropped(split, row, unfit))
                    continue
                count, removed = count + 1, removed + gone
                for suffix, content in sorted(members.items()):
                    info = tarfile.TarInfo(f"{key_of(row)}.{suffix}")  # no time, no owner: the same bytes every time
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        yield from dropped
        yield {"split": self._splits[split], "file": name, "examples": count, "texts_removed": removed,
               "sha256": file.digest.hexdigest()}  # fmt: skip


class NewFile:
    """A file in binary that gets its name when it is whole. digest: the SHA-256 of what was written."""

    def __init__(self, path: str):
        self._system, self._path = fsspec.core.url_to_fs(path)
        self._partial = f"{self._path}.{uuid.uuid4().hex}.partial"  # of its own: Beam may try a bundle twice at once
        self.digest = hashlib.sha256()

    def __enter__(self):
        self._system.makedirs(self._path.rpartition("/")[0], exist_ok=True)
        self._file = self._system.open(self._partial, "wb")
        return self

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def __exit__(self, kind, *_):
        self._file.close()
        if kind is None:
            self._system.mv(self._partial, self._path)
        else:
            self._system.rm(self._partial)


def write_report(_, plan: dict, out: str, dropped: list, contamination: list, shards: list):
    """report.json, dropped.jsonl, perhaps contamination.jsonl. RuntimeError if an example is unaccounted for."""
    splits = {}
    for name, about in plan["splits"].items():
        counts = collections.Counter(d["step"] for d in dropped if d["split"] == name)
        found = collections.Counter(c["step"] for c in contamination if c["split"] == name)
        own = [s for s in shards if s["split"] == name]
        kept = sum(s["examples"] for s in own)
        if kept + counts.total() != about["examples"]:
            raise RuntimeError(
                f"{name}: {about['examples']} read, {kept} kept, {counts.total()} dropped: some are lost"
            )
        splits[name] = {
            "read": about["examples"], "kept": kept, "dropped": dict(sorted(counts.items())),
            "texts_removed": sum(s["texts_removed"] for s in own), "contamination_kept": dict(sorted(found.items())),
        }  # fmt: skip
    files = {s["file"]: {k: s[k] for k in ("examples", "sha256")} for s in sorted(shards, key=lambda s: s["file"])}
    lists = {"dropped": dropped} | ({"contamination": contamination} if plan["contamination"] == "report" else {})
    for file, lines in lists.items():
        order = sorted(lines, key=lambda d: (d["split"], d["key"]))
        with NewFile(f"{out}/{file}.jsonl") as target:
            target.write("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in order).encode())
    with NewFile(f"{out}/report.json") as target:
        report = seal({"plan": plan, "splits": splits, "shards": files})
        target.write((json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def run(options, data: build.Data, recipe: Recipe, plan: dict, out: str):
    """Prepares `out`, a folder that does not exist yet. options: PipelineOptions. Waits until it is done."""
    splits = tuple(plan["splits"])
    sizes = [about["examples"] for about in plan["splits"].values()]
    shards = [about["shards"] for about in plan["splits"].values()]
    # Not all chunks at once: what Create is given is part of the job's description, of which Dataflow takes 10 MB.
    ranges = [(n, start, min(start + RANGE, size)) for n, size in enumerate(sizes) for start in range(0, size, RANGE)]
    with beam.Pipeline(options=options) as p:
        judged = (
            p
            | "ranges" >> beam.Create(ranges)
            | "chunks" >> beam.FlatMapTuple(chunks)
            | "spread" >> beam.Reshuffle()
            | "judge" >> beam.ParDo(Judge(data, splits, recipe)).with_outputs("dropped", "meet", main="fit")
        )
        found = (
            judged.meet
            | "meet" >> beam.GroupByKey()
            | "find earlier" >> beam.ParDo(FindEarlier(recipe))
            | "first" >> beam.CombinePerKey(min)
        )
        own, other = (
            found
            | f"of {name} split" >> beam.Filter(lambda x, is_other=name == "other": x[0][2] == is_other)
            | f"by example, {name}" >> beam.MapTuple(lambda where, verdict: ((where[0], where[1]), verdict))
            for name in ("own", "other")
        )
        decided = (
            {"fit": judged.fit, "own": own, "other": other}
            | "by example" >> beam.CoGroupByKey()
            | "decide" >> beam.ParDo(Decide(splits, plan["contamination"] == "drop"))
            .with_outputs("dropped", "contamination", main="kept")
        )  # fmt: skip
        written = (
            decided.kept
            | "shards" >> beam.MapTuple(lambda split, row: ((split, shard_of(splits[split], row, shards[split])), row))
            | "by shard" >> beam.GroupByKey()
            | "write" >> beam.ParDo(WriteShard(data, splits, recipe, out)).with_outputs("dropped", main="shards")
        )
        dropped = (judged.dropped, decided.dropped, written.dropped) | beam.Flatten()
        lists = (AsList(part) for part in (dropped, decided.contamination, written.shards))
        _ = p | "end" >> beam.Create([None]) | "report" >> beam.Map(write_report, plan, out, *lists)
