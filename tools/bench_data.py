"""python -m tools.bench_data DIR: how fast token stores are read, and what bounds it.

Writes a synthetic store of 100,000 examples at 21 modalities into DIR, unless it is there already, and reads it
through the training's pipeline. Prints examples per second and core (per second of CPU time; what else runs there still
slows a core down, hence the best window beside the median), the time of each stage, and the memory held over time.
"""

import argparse
import dataclasses
import itertools
import resource
import time
from pathlib import Path

import numpy as np

from data_pipeline.fourm import MOD21, MODALITIES
from data_pipeline.pipeline import Encoder, train_batches
from data_pipeline.sources.tokens import Source, Writer, decode_record
from tools.synthetic import batch

# What of 4M-21 is tokens (pixels and embeddings cost what they weigh), and four more grids.
TOKENS = [m for n, m in MODALITIES.items() if n in MOD21 and not m.dense]
MORE = [dataclasses.replace(MODALITIES["tok_rgb@224"], name=f"more_{i}", field=f"more_{i}") for i in range(4)]
CHUNK = 1000


def write(path: Path, modalities, count: int, crops: int):
    writer = Writer(path, tokenizers={}, licence="synthetic")
    writer.write_split("train", itertools.chain.from_iterable(
        records(modalities, min(CHUNK, count - start), start, crops) for start in range(0, count, CHUNK)
    ))  # fmt: skip
    writer.close()


def records(modalities, count, first, crops):
    """Grids in several crops, texts as their ids."""
    made = [batch(modalities, count, seed=first + crop) for crop in range(crops)]
    for i in range(count):
        record = {"row": np.int64(first + i)}
        for m in modalities:
            ids, valid = made[0][m.name]["ids"][i], made[0][m.name]["valid"][i]
            record[m.field] = ids[valid] if m.text else np.stack([b[m.name]["ids"][i] for b in made])
        yield record


def stages(source, encoder, batch_size: int, count: int) -> dict[str, float]:
    """Microseconds an example of each stage by itself, on one thread."""
    order = np.random.default_rng(0).permutation(len(source))[:count].tolist()
    rng, times = np.random.default_rng(0), {}

    def timed(name, function, items):
        start = time.process_time()
        out = [function(item) for item in items]
        times[name] = (time.process_time() - start) / count * 1e6
        return out

    raw = timed("read the record", source.read, order)
    examples = timed("decode it", decode_record, raw)
    chosen = timed("choose its crop and texts", lambda e: encoder.choose(e, rng), examples)
    timed(
        "check, pad and stack the batch",
        encoder.collate,
        [chosen[i : i + batch_size] for i in range(0, count, batch_size)],
    )
    return times


def read(source, encoder, batch_size: int, seconds: float, windows: int = 20):
    """Of each window: (examples/s, examples per second of CPU time, MiB held at its end)."""
    stream, found = iter(train_batches(source, encoder, batch_size=batch_size, seed=0)), []
    for _ in range(8):
        next(stream)
    for _ in range(windows):
        start, spent, seen = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds / windows:
            next(stream)
            seen += batch_size
        found.append((seen / (time.perf_counter() - start), seen / (time.process_time() - spent), held()))
    return np.array(found)


def held() -> float:
    """MiB of memory that this process holds (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--crops", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=30)
    args = parser.parse_args()
    modalities = (*TOKENS, *MORE)
    if not (args.dir / "manifest.json").exists():
        start = time.perf_counter()
        write(args.dir, modalities, args.examples, args.crops)
        print(f"wrote {args.examples:,} examples in {time.perf_counter() - start:.0f} s", flush=True)
    source, encoder = Source(args.dir), Encoder(modalities, {}, train=True)
    size = sum(f.stat().st_size for f in args.dir.glob("*.array_record"))
    tokens = sum(m.length for m in modalities)
    print(f"{len(source):,} examples, {len(modalities)} modalities, {tokens:,} places for tokens and "
          f"{size / len(source) / 1024:.1f} KiB an example")  # fmt: skip
    times = stages(source, encoder, args.batch_size, 4 * args.batch_size)
    for name, micros in times.items():
        print(f"  {name:<36} {micros:7.1f} µs {micros / sum(times.values()):6.0%}")
    found = read(source, encoder, args.batch_size, args.seconds)
    (rate, per_core, _), (_, best, _) = np.median(found, 0), found.max(0)
    print(
        f"{rate:,.0f} examples/s; {per_core:,.0f} examples/s and core, {best:,.0f} in the best of {len(found)} windows"
    )
    print(f"memory: {', '.join(f'{size:,.0f}' for size in found[:, 2])} MiB")


if __name__ == "__main__":
    main()
