"""What is to be made: a job is the store of one source, checked before anything is written."""

import dataclasses
import re
from pathlib import Path

from data_pipeline.checks import check_fields
from data_pipeline.plain_text import parse_json
from data_pipeline.plan import describe_split
from pretrain import build
from pretrain.data import Part
from pretrain.frozen import from_dict
from tools.tokenize.recipe import Recipe
from tools.tokenize.shards import Shard


@dataclasses.dataclass(frozen=True)
class Job:
    """sources: {split: the opened one}; plan: all that decides what the store holds."""

    out: Path
    sources: dict
    recipe: Recipe
    plan: dict

    @property
    def shards(self) -> list[Shard]:
        size = self.plan["shard_size"]
        return [
            Shard(split, number, start, min(start + size, len(source)))
            for split, source in self.sources.items()
            for number, start in enumerate(range(0, len(source), size))
        ]


def read_sources(file: str) -> list[Part]:
    """The sources that --sources names, a list as `config.data.sources` has it; SystemExit if it is none."""
    try:
        listed = parse_json(Path(file).expanduser().read_bytes())
    except (OSError, ValueError) as e:
        raise SystemExit(f"--sources={file}: not a file of JSON ({e})") from e
    if not isinstance(listed, list) or not listed:
        raise SystemExit(f"--sources={file}: must be a list of sources, as config.data.sources has it")
    parts = [from_dict(Part, values, f"--sources[{i}]") for i, values in enumerate(listed)]
    names = [part.name for part in parts]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"\w[\w.-]*", name) for name in names):
        raise SystemExit(f"--sources={file}: their names are {names}: each needs its own, that of a folder in --out")
    return parts


def make_job(args, part: Part, out: Path, fields: dict, workdirs: dict, opened: dict) -> Job:
    """Opens a source and checks it against the tokenizers.

    fields: {modality: the field that it is made from instead}; opened: {name: (Tokenizer, its modalities)}.
    """
    tokenizers = {}
    for name, (tokenizer, modalities) in opened.items():
        own = [m for m in modalities if not part.modalities or m.name in part.modalities]
        if own:
            own = tuple(dataclasses.replace(m, field=fields.get(m.name, m.field)) for m in own)
            tokenizers[name] = tokenizer, own
    if not tokenizers:
        raise SystemExit(f"--sources: {part.name!r}: no tokenizer makes any of its modalities {part.modalities}")
    colours = [m.field for _, modalities in tokenizers.values() for m in modalities
               if m.pictures and m.shape[2:] == (3,) and not m.vocab_size]  # fmt: skip
    palette_field = next(iter(colours), "")
    if args.palette is not None:
        palette_field = part.fields.get(args.palette, args.palette.replace("none", ""))
    recipe = Recipe(tokenizers, palette_field, dict(min_scale=args.min_scale, flip=args.flip))
    data = build.Data(part.source, part.path, part.options)
    splits = args.splits.split(",") if args.splits else build.splits(data)
    splits = [s for s in splits if not part.splits or s in part.splits]
    if not splits:
        raise SystemExit(f"--splits={args.splits}: {part.name!r} takes part in {', '.join(part.splits)} alone")
    sources = {s: build.source(data, s) for s in splits}
    for split, source in sources.items():
        print(describe_split(f"{part.name or part.source} {split}", source), flush=True)
    for source in sources.values():
        check_fields(recipe.modalities, source)
    return Job(out, sources, recipe, _plan(args, part.source, recipe, workdirs, sources))


def field_here(field: str, fields: dict) -> str:
    """What a source calls a field, `edges:FIELD` too. fields: {field: the source's name of it}."""
    derived, colon, base = field.rpartition(":")
    return fields.get(field, derived + colon + fields.get(base, base))


def _plan(args, source: str, recipe: Recipe, workdirs: dict, sources: dict) -> dict:
    tokenizers = {
        name: {"workdir": workdirs[name], "digest": t.digest, "vocab_size": t.vocab_size, "shape": list(t.grid),
               "modalities": [m.name for m in modalities],
               "specs": {m.name: build.plain(m) for m in modalities}}
        for name, (t, modalities) in recipe.tokenizers.items()
    }  # fmt: skip
    licence = args.licence or ("see data_pipeline/emoji_corpus/LICENSES" if source == "emoji" else "not stated")
    return {
        "splits": {s: {"source": repr(opened), "examples": len(opened)} for s, opened in sources.items()},
        "tokenizers": tokenizers, "licence": licence, "crops": args.crops, "crop": recipe.crop,
        "palette": recipe.palette, "shard_size": args.shard_size,
    }  # fmt: skip
