"""Token stores, checked and handed on.

python -m tools.store check DIR             compares every file with the sha256 that was noted when it was written, of a
                                            store, of what tools.prepare made, of an export or a checkpoint
python -m tools.store export DIR --out=DIR  writes it as a tar tree of 4M: OUT/SPLIT/FIELD/shard-00000.tar, and beside
                                            it the tokenizers' codes: OUT/NAME.codes.npy
"""

import argparse
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import tqdm

from data_pipeline.seal import unseal
from data_pipeline.sources.tokens import Source, check_size, read_codes, read_manifest, sha256, write_codes
from pretrain import digests


def check(path) -> list[str]:
    """What is wrong with the files of a folder, a line each."""
    if (Path(path) / digests.FILE).exists():
        return digests.check(path)
    if (Path(path) / "report.json").exists():
        return _check_prepared(Path(path))
    manifest, problems = read_manifest(path), []
    shards = [shard for about in manifest["splits"].values() for shard in about["shards"]]
    shards += [about["codes"] for about in manifest["tokenizers"].values() if "codes" in about]
    for shard in tqdm.tqdm(shards, "check", disable=None):
        try:
            check_size(path, shard)
        except (FileNotFoundError, ValueError) as e:
            problems.append(str(e))
            continue
        if sha256(Path(path) / shard["file"]) != shard["sha256"]:
            problems.append(f"{path}/{shard['file']}: another sha256 than its manifest says; copy it again")
    return problems


def _check_prepared(path: Path) -> list[str]:
    try:
        report = unseal(json.loads((path / "report.json").read_text()))
        shards = {name: about["sha256"] for name, about in report["shards"].items()}
    except (ValueError, KeyError, AttributeError) as e:
        return [f"{path / 'report.json'} is broken ({e}); prepare again"]
    problems = []
    for name, digest in tqdm.tqdm(shards.items(), "check", disable=None):
        if not (path / name).is_file():
            problems.append(f"{path / name} is missing; copy it again")
        elif sha256(path / name) != digest:
            problems.append(f"{path / name}: another sha256 than report.json says; copy it again")
    return problems


def export(path, out, shard_size: int) -> dict[str, int]:
    """Writes a store as aligned tars, a field of the records a modality; returns {split: examples}.

    The key of an example is its `row`. Arrays become .npy, ids of less than 2**15 int16 as 4M has them; texts .txt,
    everything else .json. A field that an example lacks is no member of its tar. Each tar is renamed when it is whole.
    The codes of the tokenizers are checked and written beside the splits.
    """
    counts, manifest = {}, read_manifest(path)
    codes = {name: read_codes(path, name) for name in manifest["tokenizers"]}
    for split in manifest["splits"]:
        source, before = Source(path, split), -1
        for start in tqdm.tqdm(range(0, len(source), shard_size), f"export {split}", disable=None):
            records = [source[i] for i in range(start, min(start + shard_size, len(source)))]
            rows = [int(r["row"]) for r in records]
            if (np.diff([before, *rows]) <= 0).any():
                raise ValueError(f"{path}: the rows of {split!r} do not ascend: they cannot be keys of a tar tree")
            before = rows[-1]
            for field in sorted(source.fields - {"row"}):
                file = Path(out) / split / field / f"shard-{start // shard_size:05d}.tar"
                write_tar(file, {f"{row:09d}": r[field] for row, r in zip(rows, records) if field in r})
        counts[split] = len(source)
    for name, held in codes.items():
        if held is not None:
            write_codes(out, name, held)
    return counts


def write_tar(file: Path, values: dict):
    """values: {key: value}. FileExistsError where there is such a tar."""
    if file.exists():
        raise FileExistsError(f"{file} is there already: remove it or write elsewhere")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    with tarfile.open(partial, "w") as tar:
        for key, value in values.items():
            suffix, data = encode(value)
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    os.replace(partial, file)


def encode(value) -> tuple[str, bytes]:
    """(suffix, bytes) of a value of a record."""
    if isinstance(value, str):
        return "txt", value.encode()
    if not isinstance(value, np.ndarray):
        return "json", json.dumps(value, default=np.ndarray.tolist, ensure_ascii=False).encode()
    buffer, small = io.BytesIO(), value.dtype.kind in "iu" and (not value.size or value.max() < 2**15)
    np.save(buffer, value.astype(np.int16) if small and value.min(initial=0) >= -(2**15) else value)
    return "npy", buffer.getvalue()


def folder(text: str) -> Path:
    return Path(text).expanduser()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("store", type=folder)
    exporter = commands.add_parser("export")
    exporter.add_argument("store", type=folder)
    exporter.add_argument("--out", type=folder, required=True, help="the folder of the tree")
    exporter.add_argument("--shard_size", type=int, default=10_000, help="examples in a tar at most")
    args = parser.parse_args()
    if args.command == "export":
        counts = export(args.store, args.out, args.shard_size)
        print(", ".join(f"{split}: {count:,} examples" for split, count in counts.items()))
        return
    problems = check(args.store)
    print("\n".join(problems) or f"{args.store}: every file is as it was written")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
