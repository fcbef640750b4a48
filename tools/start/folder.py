"""Lists `train.jsonl` and `val.jsonl` of a folder of pictures that has none: what goes with each, and who is held out.

Read are texts beside pictures (`a.jpg`, `a.txt`: a line a caption), a table that names them (`.csv`, `.tsv`, or
`.jsonl` as Hugging Face's `metadata.jsonl`), or else the folder that a picture lies in, as its class.
"""

import csv
import hashlib
import json
import math
from pathlib import Path

from data_pipeline.decoding import decode, kind_of
from data_pipeline.folders import OTHER, Ignored, walk
from data_pipeline.plain_text import decode_text, parse_json
from pretrain.storage import write

TABLES = (".csv", ".tsv", ".jsonl")
LABEL, CAPTION, IMAGE = "label", "caption", "image"


def examples(path) -> list[dict]:
    """[{image: its name relative to the folder, caption or label: what goes with it}], in the order of the names.

    ValueError if nothing goes with any picture; FileNotFoundError if there is none.
    """
    path, ignored = Path(path), Ignored()
    wanted = lambda name: "" if kind_of(name) in ("image", "text") or name.endswith(TABLES) else OTHER
    names = sorted(walk(path, wanted, ignored, root=path))
    pictures = [name for name in names if kind_of(name) == "image"]
    if not pictures:
        raise FileNotFoundError(f"{path}: holds no picture that is read; {ignored or 'it is empty'}")
    for found in (_beside(path, pictures, set(names)), _tables(path, pictures, names), _classes(pictures)):
        if found:
            return found
    raise ValueError(
        f"{path}: nothing says what its {len(pictures):,} pictures show: put a text beside each (a.jpg, a.txt), "
        "a table captions.csv with the columns image and caption, or the pictures into folders of their classes"
    )


def write_lists(path, found: list[dict], share: float) -> dict[str, int]:
    """Writes SPLIT.jsonl into the folder; {split: how many}. share: of the examples, held out as `val`, at least two;
    which is a matter of their names alone. FileExistsError if a list is there."""
    path, lots = Path(path), [hashlib.sha256(e[IMAGE].encode("utf8", "surrogateescape")).digest() for e in found]
    held = sorted(range(len(found)), key=lots.__getitem__)[: max(2, math.floor(share * len(found)))]
    if len(found) < 4:
        raise ValueError(f"{path}: {len(found)} pictures with a text or a class are too few to learn from and to test")
    made = {"train": [e for i, e in enumerate(found) if i not in set(held)], "val": [found[i] for i in sorted(held)]}
    for split, rows in made.items():
        file = path / f"{split}.jsonl"
        if file.exists():
            raise FileExistsError(f"{file}: is there already: move it away to have it written anew")
        try:
            write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        except OSError as e:
            raise ValueError(f"{file}: cannot be written ({e.strerror}); copy the folder to where you may write") from e
    return {split: len(rows) for split, rows in made.items()}


def _beside(path: Path, pictures, names: set) -> list[dict]:
    found = []
    for name in pictures:
        text = name.rpartition(".")[0] + ".txt"
        if text in names:
            lines = [line.strip() for line in decode(path / text, "text", str(path / text)).splitlines()]
            found.append({IMAGE: name, CAPTION: [line for line in lines if line]})
    return [e for e in found if e[CAPTION]]


def _tables(path: Path, pictures, names) -> list[dict]:
    """Of all tables the one that names most pictures, each once with all texts that it has."""
    best = []
    for name in names:
        if name.endswith(TABLES):
            best = max(best, _table(path / name, name.rpartition("/")[0], set(pictures)), key=len)
    return best


def _table(file: Path, folder: str, pictures: set) -> list[dict]:
    rows = _rows(file)
    named = lambda value: f"{folder}/{value}".lstrip("/") if isinstance(value, str) else ""
    keys = {key for row in rows for key in row}
    counts = {key: sum(named(row.get(key)) in pictures for row in rows) for key in keys}
    image = max(sorted(counts), key=counts.get, default=None)
    if not rows or not counts[image]:
        return []
    texts = {key: sum(len(row[key]) for row in rows if isinstance(row.get(key), str)) for key in keys - {image}}
    texts = {key: length for key, length in texts.items() if length}
    if not texts:
        return []
    caption, found = max(sorted(texts), key=texts.get), {}
    for row in rows:
        if (name := named(row.get(image))) in pictures and row.get(caption):
            value = row[caption]
            found.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return [{IMAGE: name, CAPTION: found[name]} for name in sorted(found)]


def _rows(file: Path) -> list[dict]:
    """ValueError that names the file, and of JSON the line, if it is broken."""
    where = str(file)
    try:
        lines = decode_text(file.read_bytes()).splitlines()
        if file.suffix == ".jsonl":
            rows = []
            for number, line in enumerate(lines, 1):
                where = f"{file}, line {number}"
                rows += [parse_json(line.encode())] if line.strip() else []
            return [row for row in rows if isinstance(row, dict)]
        return list(csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True))
    except (ValueError, csv.Error) as e:
        kind = "JSON, one object a line" if file.suffix == ".jsonl" else f"a table ({file.suffix[1:]})"
        raise ValueError(f"{where}: not {kind}, in UTF-8 ({e}); mend the file, or move it away") from e


def _classes(pictures) -> list[dict]:
    found = [{IMAGE: name, LABEL: name.split("/")[-2]} for name in pictures if "/" in name]
    return found if len({e[LABEL] for e in found}) > 1 else []
