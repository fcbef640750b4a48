"""Raw examples → a token store: python -m tools.tokenize --source=emoji --tokenizers=rgb=DIR,gray=DIR --out=DIR

Every modality that a tokenizer was trained on is tokenized in several crops, the same crops for all modalities of an
example; crop 0 is the largest at the centre, and all that held-out splits get. Colour palettes are computed beside
them. Everything else of an example but its pictures is kept as it is.

The store is made shard by shard. Whenever it stops, the same command goes on: a finished shard is never made again, and
on devices of the same kind and number the outcome is the same to the byte. Another command on that folder is refused.
An example that cannot be read is left out and told in quarantine.jsonl.

Several sources at once: --sources=FILE instead of --source, --path and --fields: a JSON list, as config.data.sources
is one. Each has a name, its store is OUT/NAME, and its options, fields, splits and modalities are heeded.

On n hosts that share a file system start it n times with --process=i/n (--process=$SLURM_PROCID/$SLURM_NTASKS on
Slurm); the last to finish writes the manifest, without which it is no store.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tqdm

from data_pipeline.sources.tokens import SHARD_SIZE, split_about, write_codes, write_manifest
from data_pipeline.transforms.crop import crop_settings
from pretrain.build import read_run
from pretrain.data import Part
from pretrain.lock import Lock
from pretrain.restore import load_tokenizer
from tools.tokenize.jobs import Job, field_here, make_job, read_sources
from tools.tokenize.shards import TooManyFailures, failures_so_far, make_shard, write_json, write_quarantine


@contextlib.contextmanager
def hold(out: Path, process: int, processes: int):
    """Keeps others from the shards of this process; SystemExit if one has them."""
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(Lock(out, f".lock-{process}-of-{processes}"))
            for other in out.glob(".lock-*"):
                if not other.name.endswith(f"-of-{processes}"):  # one of another division
                    with Lock(out, other.name):
                        pass
        except ValueError as e:
            raise SystemExit(f"--out={e}") from e
        if processes == 1:  # nobody else writes there: what a kill has left is of no use
            for partial in out.rglob("*.partial"):
                partial.unlink()
        yield


def claim(out: Path, plan: dict):
    """Writes what is going to be made; SystemExit if something else was begun there."""
    file = out / "plan.json"
    if not file.exists():
        if (out / "manifest.json").exists():
            raise SystemExit(f"--out={out}: already holds a token store: remove it or write elsewhere")
        write_json(file, plan)
    begun = json.loads(file.read_text())
    flat, wanted = flatten(begun), flatten(json.loads(json.dumps(plan)))
    for key in sorted(flat.keys() | wanted.keys()):
        if flat.get(key) != wanted.get(key):
            raise SystemExit(
                f"--out={out}: was begun with {key} = {flat.get(key)!r}, and this command says {wanted.get(key)!r}: "
                "give the same, or write elsewhere"
            )


def flatten(tree, path=()) -> dict:
    """{"a.b": value} of nested dicts. A workdir is where a tokenizer lies, not what it is: its digest is."""
    if not isinstance(tree, dict):
        return {".".join(path): tree}
    return {k: v for name, part in tree.items() if name != "workdir" for k, v in flatten(part, (*path, name)).items()}


def parse_pairs(flag: str, text: str) -> dict[str, str]:
    pairs = [p.partition("=") for p in text.split(",") if text]
    if not all(name and value for name, _, value in pairs):
        raise SystemExit(f"--{flag}={text}: write NAME=VALUE,NAME=VALUE")
    return {name: value for name, _, value in pairs}


def parse_process(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise SystemExit(f"--process={text}: write i/n with i of 0 … n - 1")
    return int(number), int(count)


def open_tokenizers(workdirs: dict) -> dict:
    """{name: (Tokenizer, its modalities)}."""
    opened = {name: (load_tokenizer(workdir), read_run(workdir).modalities) for name, workdir in workdirs.items()}
    known = [m.name for _, modalities in opened.values() for m in modalities]
    if len(known) != len(set(known)):
        raise SystemExit(f"--tokenizers: two of them have a modality of one name: {', '.join(known)}")
    return opened


def make_jobs(args, workdirs: dict, opened: dict) -> list[Job]:
    """One of --source, or one of each of --sources; what is wrong with any of them is said before the first is made."""
    out, specs = Path(args.out).expanduser(), {m.name: m for _, modalities in opened.values() for m in modalities}
    if bool(args.source) == bool(args.sources):
        raise SystemExit("give --source, or --sources for several")
    if args.source:
        fields = parse_pairs("fields", args.fields)
        for name in fields:
            if name not in specs:
                raise SystemExit(
                    f"--fields={name}=…: no tokenizer has a modality {name!r}; they have {', '.join(specs)}"
                )
        options = {"outside": True} if args.outside else {}
        return [make_job(args, Part(args.source, path=args.path, options=options), out, fields, workdirs, opened)]
    if args.path or args.fields:
        raise SystemExit("--path and --fields belong to --source; with --sources they are keys of each source")
    jobs = []
    for part in read_sources(args.sources):
        fields = {name: field_here(m.field, part.fields) for name, m in specs.items()}
        try:
            jobs.append(make_job(args, part, out / part.name, fields, workdirs, opened))
        except (ValueError, FileNotFoundError) as e:
            raise SystemExit(f"--sources={args.sources}: {part.name!r}: {e}") from e
    return jobs


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="", help="a file of data_pipeline/sources, e.g. emoji")
    parser.add_argument("--sources", default="", help="a JSON file that lists several")
    parser.add_argument("--path", default="", help="the folder that it reads, if it does")
    parser.add_argument("--outside", action="store_true", help="data may lead out of it (data.options.outside)")
    parser.add_argument("--tokenizers", required=True, help="NAME=WORKDIR,… of trained tokenizers")
    parser.add_argument("--fields", default="", help="MODALITY=FIELD,…: what modalities are made from in this source")
    parser.add_argument("--out", required=True, help="directory of the token store, of several the one that holds them")
    parser.add_argument("--splits", default="", help="NAME,…; all that there are if none is named")
    parser.add_argument("--crops", type=int, default=8, help="aligned crops of a training example")
    parser.add_argument("--min_scale", type=float, default=0.8, help="least share of the area that a crop keeps")
    parser.add_argument("--flip", type=float, default=0.0, help="probability that a crop is mirrored, but crop 0")
    parser.add_argument("--palette", help="the field whose palettes are taken, none for none; the first of 3 channels")
    parser.add_argument("--licence", help="of the examples; the emoji corpus knows its own")
    parser.add_argument("--shard_size", type=int, default=SHARD_SIZE, help="examples in a shard")
    parser.add_argument("--process", default="0/1", help="i/n: make every n-th shard, from the i-th")
    parser.add_argument("--max_failures", type=int, default=100, help="stop if more examples cannot be read")
    parser.add_argument("--batch_size", type=int, default=64, help="images that a device tokenizes at a time")
    return parser.parse_args()


def main():
    args = parse_args()
    process, processes = parse_process(args.process)
    # Its errors come before anything is written.
    crop_settings(np.random.default_rng(0), args.crops, 8, min_scale=args.min_scale, flip=args.flip)
    workdirs = parse_pairs("tokenizers", args.tokenizers)
    opened = open_tokenizers(workdirs)
    jobs = make_jobs(args, workdirs, opened)
    with contextlib.ExitStack() as stack:
        for job in jobs:
            stack.enter_context(hold(job.out, process, processes))
            claim(job.out, job.plan)
        for tokenizer, _ in opened.values():
            tokenizer.chunk = args.batch_size * jax.local_device_count()
        for job in jobs:
            if len(jobs) > 1:
                print(f"{job.out}:", flush=True)
            mine = job.shards[process::processes]
            run(args, job.out, [s for s in mine if s.about(job.out) is None], job.sources, job.recipe)
            finish(job.out, job.shards, job.plan, job.recipe.tokenizers)


def run(args, out, shards, sources, recipe):
    """Makes the shards; SystemExit, resumable, if too much cannot be read or nothing can be written."""
    total = sum(s.stop - s.start for s in shards)
    failed, start = len(failures_so_far(out)), time.perf_counter()
    with tqdm.tqdm(total=total, unit=" examples", desc="tokenize", disable=None) as bar:
        for number, shard in enumerate(shards):
            source, crops = sources[shard.split], args.crops if shard.split == "train" else 1
            try:
                about = make_shard(shard, out, source, recipe, crops, args.max_failures - failed, bar)
                shard.finish(out, about)
            except TooManyFailures as e:
                raise SystemExit(
                    f"more than --max_failures={args.max_failures} examples cannot be read, see "
                    f"{out / 'quarantine.jsonl'}; the last: {e}"
                ) from e
            except OSError as e:
                raise SystemExit(
                    f"{e}\n{number} of {len(shards)} shards are finished: make room, and the same command goes on"
                ) from e
            failed += len(about["failures"])
            if about["failures"]:
                write_quarantine(out)
    seconds = time.perf_counter() - start
    print(f"{total:,} examples in {seconds:.1f} s, {total / seconds:,.0f} examples/s", flush=True)


def finish(out: Path, shards, plan, tokenizers):
    """Writes the manifest if every shard of every process is finished, and says what is in it."""
    about = {s: s.about(out) for s in shards}
    open_ = sum(a is None for a in about.values())
    if open_:
        print(f"{open_} of {len(shards)} shards are still to be made by other processes", file=sys.stderr)
        return
    splits = {}
    for split in plan["splits"]:
        kept = [{k: v for k, v in a.items() if k not in ("failures", "codes", "left_out")}
                for s, a in about.items() if s.split == split]  # fmt: skip
        splits[split] = split_about(kept)
    made = {k: plan[k] for k in ("crops", "crop", "palette")}
    made["source"] = {s: p["source"] for s, p in plan["splits"].items()}
    write_quarantine(out)
    told = dict(plan["tokenizers"])
    for name, (tokenizer, _) in tokenizers.items():
        if tokenizer.codes is not None:
            told[name] = told[name] | {"codes": write_codes(out, name, tokenizer.codes)}
    write_manifest(out, tokenizers=told, licence=plan["licence"], splits=splits, made=made)
    failures = sum(len(a["failures"]) for a in about.values())
    print(", ".join(f"{split}: {a['count']:,} examples" for split, a in splits.items()))
    if failures:
        print(f"{failures} examples could not be read: {out / 'quarantine.jsonl'}")
    if left := sorted({field for a in about.values() for field in a["left_out"]}):
        print(f"left out, since no tokenizer reads them: {', '.join(left)}")
    for name, tokenizer in plan["tokenizers"].items():
        used = [np.unpackbits(np.frombuffer(bytes.fromhex(a["codes"][name]), np.uint8)) for a in about.values()]
        share = np.bitwise_or.reduce(used).sum() / tokenizer["vocab_size"]
        print(f"{name}: {share:.0%} of {tokenizer['vocab_size']} codes used")


if __name__ == "__main__":
    main()
