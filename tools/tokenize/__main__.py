"""Raw examples → a token store: python -m tools.tokenize --source=emoji --tokenizers=rgb=DIR,gray=DIR --out=DIR

Every modality that a tokenizer was trained on is tokenized in several crops, the same crops for all modalities of an
example; crop 0 is the largest at the centre, and all that held-out splits get. Colour palettes are computed beside
them. Everything else of an example but its pictures is kept as it is.

The store is made shard by shard. Whenever it stops, the same command goes on: a finished shard is never made again, and
on devices of the same kind and number the outcome is the same to the byte. Another command on that folder is refused.
An example that cannot be read is left out and told in quarantine.jsonl.

On n hosts that share a file system start it n times with --process=i/n (--process=$SLURM_PROCID/$SLURM_NTASKS on
Slurm); the last to finish writes the manifest, without which it is no store.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tqdm

from data_pipeline.image import crop_settings
from data_pipeline.pipeline import check_fields
from data_pipeline.sources.tokens import SHARD_SIZE, split_about, write_codes, write_manifest
from pretrain import build
from pretrain.build import read_run
from pretrain.restore import load_tokenizer
from tools.tokenize.recipe import Recipe
from tools.tokenize.shards import Shard, TooManyFailures, failures_so_far, make_shard, write_json, write_quarantine


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


def open_tokenizers(workdirs: dict, fields: dict) -> dict:
    """{name: (Tokenizer, its modalities)}; fields: {modality: the field that it is made from instead}."""
    opened = {}
    for name, workdir in workdirs.items():
        modalities = read_run(workdir).modalities
        modalities = tuple(dataclasses.replace(m, field=fields.get(m.name, m.field)) for m in modalities)
        opened[name] = load_tokenizer(workdir), modalities
    known = [m.name for _, modalities in opened.values() for m in modalities]
    for name in fields:
        if name not in known:
            raise SystemExit(f"--fields={name}=…: no tokenizer has a modality {name!r}; they have {', '.join(known)}")
    if len(known) != len(set(known)):
        raise SystemExit(f"--tokenizers: two of them have a modality of one name: {', '.join(known)}")
    return opened


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="a file of data_pipeline/sources, e.g. emoji")
    parser.add_argument("--path", default="", help="the folder that it reads, if it does")
    parser.add_argument("--tokenizers", required=True, help="NAME=WORKDIR,… of trained tokenizers")
    parser.add_argument("--fields", default="", help="MODALITY=FIELD,…: what modalities are made from in this source")
    parser.add_argument("--out", required=True, help="directory of the token store")
    parser.add_argument("--splits", default="train,val,test")
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


def make_plan(args, recipe: Recipe, workdirs: dict, sources: dict) -> dict:
    """All that decides what the store holds."""
    tokenizers = {
        name: {"workdir": workdirs[name], "digest": t.digest, "vocab_size": t.vocab_size, "shape": list(t.grid),
               "modalities": [m.name for m in modalities],
               "specs": {m.name: build.plain(m) for m in modalities}}
        for name, (t, modalities) in recipe.tokenizers.items()
    }  # fmt: skip
    licence = args.licence or ("see data_pipeline/emoji_corpus/LICENSES" if args.source == "emoji" else "not stated")
    return {
        "splits": {s: {"source": repr(source), "examples": len(source)} for s, source in sources.items()},
        "tokenizers": tokenizers, "licence": licence, "crops": args.crops, "crop": recipe.crop,
        "palette": recipe.palette, "shard_size": args.shard_size,
    }  # fmt: skip


def main():
    args = parse_args()
    process, processes = parse_process(args.process)
    workdirs, out = parse_pairs("tokenizers", args.tokenizers), Path(args.out)
    tokenizers = open_tokenizers(workdirs, parse_pairs("fields", args.fields))
    colours = [m.field for _, modalities in tokenizers.values() for m in modalities
               if m.kind == "pixels" and m.shape[2] == 3 and not m.vocab_size]  # fmt: skip
    palette_field = next(iter(colours), "") if args.palette is None else args.palette.replace("none", "")
    crop = dict(min_scale=args.min_scale, flip=args.flip)
    crop_settings(np.random.default_rng(0), args.crops, 8, **crop)  # its errors come before anything is written
    recipe = Recipe(tokenizers, palette_field, crop)
    sources = {s: build.source(build.Data(args.source, args.path), s) for s in args.splits.split(",")}
    for source in sources.values():
        check_fields([m for _, modalities in tokenizers.values() for m in modalities], source)
    plan = make_plan(args, recipe, workdirs, sources)
    if processes == 1:  # nobody else writes there: what a kill has left is of no use
        for partial in out.rglob("*.partial"):
            partial.unlink()
    claim(out, plan)
    shards = [
        Shard(split, number, start, min(start + args.shard_size, len(source)))
        for split, source in sources.items()
        for number, start in enumerate(range(0, len(source), args.shard_size))
    ]
    for tokenizer, _ in tokenizers.values():
        tokenizer.chunk = args.batch_size * jax.local_device_count()
    run(args, out, [s for s in shards[process::processes] if s.about(out) is None], sources, recipe)
    finish(out, shards, plan, tokenizers)


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
