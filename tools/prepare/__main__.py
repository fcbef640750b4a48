"""Raw examples → tars that `webdataset` reads: python -m tools.prepare --path=DIR --out=DIR

Every example is read and decoded, its texts are cleaned (`data_pipeline.clean`), and it is left out if it cannot be
read or is unfit. Of duplicates, exact (the same pixels or text) and near (`data_pipeline.duplicates`), the first of a
split is kept; an example that duplicates one of a split named later in --splits is contamination and left out, too:
name the splits that are evaluated on last. A chain of near duplicates falls together: each is like the one that
dropped.jsonl names, which may itself be dropped for another. What is kept is resized, labelled
(`data_pipeline.pseudo_labels`) and written in shards.

OUT/SPLIT/NNNNN.tar holds examples KEY.SUFFIX, KEY being the number in the source; OUT/report.json the plan, the counts
of every step and the checksums; OUT/dropped.jsonl each example that was left out, why, and of a duplicate of which it
is one. The same command writes the same bytes with any number of workers; where its output is, it does nothing.

It is an Apache Beam pipeline, which runs here if nothing else is said. Flags of Beam are passed on, such as
--direct_num_workers=8 --direct_running_mode=multi_processing, or --runner=DataflowRunner --project=…; what only your
runner knows goes behind a lone `--`. The workers need this package, the source and OUT, a path or URL of fsspec.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

import fsspec
import PIL
from fsspec.implementations.local import LocalFileSystem

from data_pipeline import pseudo_labels
from data_pipeline.plan import describe_split
from pretrain import build
from pretrain.lock import Lock
from tools.prepare.recipe import FORMATS, Recipe


def parse_args(argv):
    """(our flags, those that Beam must know, those behind a lone `--`)."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--source", default="files", help="a file of data_pipeline/sources")
    add("--path", default="", help="the folder that it reads, if it does")
    add("--out", required=True, help="the folder that is made")
    add("--splits", default="", help="NAME,…, those evaluated on last; all that there are if none is named")
    add("--outside", action="store_true", help="data may lead out of their folder (data.options.outside)")
    add("--image", default="image", help="the field of the picture that is judged and labelled")
    add("--texts", default="caption", help="FIELD,… that are cleaned: texts, or lists or dicts of texts")
    add("--min_size", type=int, default=1, help="least pixels of the shorter side")
    add("--max_aspect", type=float, default=0.0, help="greatest ratio of the sides; 0 for any")
    add("--min_chars", type=int, default=1, help="least characters of a text; of several those that fit are kept")
    add("--max_chars", type=int, default=0, help="most of them; 0 for any")
    add("--exact", default="image", help="FIELD,… whose exact duplicates are left out")
    add("--near", default="image", help="FIELD,… whose near duplicates are left out")
    add("--bits", type=int, default=4, help="of 64 of pHash in which near pictures may differ, 0 … 14")
    add("--levels", type=float, default=12.0, help="of 255 by which their thumbnails may differ on average")
    add("--similarity", type=float, default=0.8, help="least (Jaccard, of 3 words in a row) of near texts")
    add("--contamination", choices=("drop", "report"), default="drop", help="report: keep, tell contamination.jsonl")
    add("--resize", type=int, default=0, help="pixels that a longer shorter side becomes; 0 leaves all")
    add("--maps", default="", help="FIELD,… of labels as pixels: nearest neighbour, without loss")
    add("--format", choices=FORMATS, default="jpg", help="of pictures of three channels; others are PNG")
    add("--quality", type=int, default=95, help="of jpg and webp")
    labels = "a pseudo-label: palettes, edges, metadata, or onnx:PATH?NAME=VALUE&…, see pseudo_labels.Onnx"
    add("--label", action="append", default=[], metavar="FIELD=HOW", help=labels)
    add("--shard_size", type=int, default=4096, help="examples of the source per shard, about")
    at = argv.index("--") if "--" in argv else len(argv)
    args, rest = parser.parse_known_args(argv[:at])
    if args.shard_size < 1 or not 0 <= args.bits <= 14 or not 1 <= args.quality <= 100 or args.resize < 0:
        parser.error("--shard_size must be at least 1, --bits 0 … 14, --quality 1 … 100, --resize at least 0")
    return args, rest, argv[at + 1 :]


def parse_recipe(args) -> Recipe:
    def fields(text):
        return tuple(name for name in text.split(",") if name)

    labels = []
    for text in args.label:
        field, equals, how = text.partition("=")
        if not (field and equals):
            raise SystemExit(f"--label={text}: write FIELD=HOW")
        labels.append((field, pseudo_labels.parse(how)))
    return Recipe(
        args.image, fields(args.texts), args.min_size, args.max_aspect, args.min_chars, args.max_chars,
        fields(args.exact), fields(args.near), args.bits, args.levels, args.similarity, args.resize, fields(args.maps),
        args.format, args.quality, tuple(labels),
    )  # fmt: skip


def check(recipe: Recipe, sources: dict):
    """SystemExit for a field that no source has, or a pseudo-label whose field one has; opens every model once."""
    known = set().union(*(getattr(source, "fields", ()) for source in sources.values()))
    asked = {"exact": recipe.exact, "near": recipe.near, "maps": recipe.maps, "texts": recipe.texts}
    for flag, fields in asked.items():
        for field in fields if known else ():
            if field not in known and (flag, field) != ("texts", "caption"):
                raise SystemExit(f"--{flag}={field}: the source has {', '.join(sorted(known))}; name those, or none")
    names = [field for field, _ in recipe.labels]
    for field in names:
        if field in known or names.count(field) > 1:
            raise SystemExit(f"--label={field}=…: there is a field of this name already; give it another")
    if names and known and recipe.image not in known:
        raise SystemExit(f"--image={recipe.image}: the source has {', '.join(sorted(known))}")
    recipe.open_labels()


def make_plan(args, recipe: Recipe, sources: dict) -> dict:
    """All that decides what is written."""
    apart = ("source", "path", "out", "splits", "outside", "label", "shard_size")
    given = {k: v for k, v in vars(args).items() if k not in apart}
    labels = {f: how if isinstance(how, str) else {"onnx": how.digest, **how.options} for f, how in recipe.labels}
    splits = {
        split: {"source": repr(source), "examples": len(source), "shards": -(-len(source) // args.shard_size)}
        for split, source in sources.items()
    }
    return json.loads(json.dumps({"splits": splits, "labels": labels, "pillow": PIL.__version__, **given}))


def is_done(system, out: str, plan: dict) -> bool:
    """Whether `out` holds the outcome of this plan; SystemExit if it holds something else."""
    if not system.exists(out):
        return False
    if not system.exists(f"{out}/report.json"):
        raise SystemExit(f"--out={out}: exists, and tools.prepare did not make it: remove it or write elsewhere")
    with system.open(f"{out}/report.json", "r", encoding="utf8") as file:
        made = json.load(file)["plan"]
    for key in sorted(made.keys() | plan.keys()):
        if made.get(key) != plan.get(key):
            raise SystemExit(
                f"--out={out}: was made with {key} = {made.get(key)!r}, and this command says {plan.get(key)!r}: write "
                "elsewhere"
            )
    return True


def beam_options(rest, runner):
    """PipelineOptions of the flags that are not ours; SystemExit for one that Beam does not know either."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as e:
        raise SystemExit(f"tools.prepare needs Apache Beam ({e}): pip install 'tokenloom[beam]'") from e
    known = PipelineOptions([]).get_all_options()
    for flag in rest:
        name = flag.removeprefix("--").partition("=")[0]
        if flag.startswith("--") and name not in known and name.removeprefix("no_") not in known:
            raise SystemExit(
                f"{flag}: no flag of tools.prepare or of Beam; put what only your runner knows behind `--`"
            )
    return PipelineOptions([*rest, *runner])


def summary(report: dict) -> str:
    """What the splits hold, a line each."""
    lines = []
    for split, about in report["splits"].items():
        parts = [f"{count:,} {step}" for step, count in about["dropped"].items()]
        parts += [f"{count:,} {step}, kept" for step, count in about["contamination_kept"].items()]
        text = f"{split}: {about['kept']:,} of {about['read']:,} examples" + (": " if parts else "") + ", ".join(parts)
        lines.append(text + (f"; {about['texts_removed']:,} texts taken out" if about["texts_removed"] else ""))
    return "\n".join(lines)


def main(argv: list[str] | None = None):
    args, rest, runner = parse_args(sys.argv[1:] if argv is None else argv)
    options = beam_options(rest, runner)
    from tools.prepare import pipeline

    data = build.Data(args.source, args.path, {"outside": True} if args.outside else {})
    splits = args.splits.split(",") if args.splits else build.splits(data)
    sources = {split: build.source(data, split) for split in splits}
    for split, source in sources.items():
        print(describe_split(split, source), flush=True)
    recipe = parse_recipe(args)
    check(recipe, sources)
    plan = make_plan(args, recipe, sources)
    system, out = fsspec.core.url_to_fs(args.out.rstrip("/"))
    with hold(system, out):
        if is_done(system, out, plan):
            print(f"{args.out} is made already")
        else:
            make(args.out.rstrip("/"), system, out, lambda to: pipeline.run(options, data, recipe, plan, to))


@contextlib.contextmanager
def hold(system, out: str):
    """Keeps a second program from `out`, where that is on a disk; SystemExit if one makes it just now."""
    with contextlib.ExitStack() as held:
        if isinstance(system, LocalFileSystem):
            parent = Path(out).parent
            parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(Lock(parent, f".{Path(out).name}.lock"))
            except ValueError as e:
                raise SystemExit(f"--out={out}: {e}") from e
        yield


def make(name: str, system, out: str, run):
    """Prepares beside `out`, by `run(folder)`, and gives the folder its name when it is whole."""
    partial = f"{out}.partial"
    if system.exists(partial):
        print(f"removed {partial}, which an earlier run did not finish", file=sys.stderr)
        system.rm(partial, recursive=True)
    run(f"{name}.partial")
    with system.open(f"{partial}/report.json", "r", encoding="utf8") as file:
        report = json.load(file)
    print(summary(report))
    empty = [split for split, about in report["splits"].items() if not about["kept"]]
    if empty:
        raise SystemExit(f"{', '.join(empty)}: nothing is left; {partial}/dropped.jsonl says why")
    for rest in (name for name in system.find(partial) if name.endswith(".partial")):  # of a worker that was killed
        system.rm(rest)
    system.mv(partial, out, recursive=True)
    print(f"wrote {name}")


if __name__ == "__main__":
    main()
