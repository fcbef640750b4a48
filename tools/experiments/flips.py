"""`python -m tools.experiments.flips --flips=250 --cases=workdir,store`: is a changed bit noticed?

A workdir, a token store, an export, what tools.prepare made, and a small folder of each source are written; then, again
and again, one bit of one byte of one of their files is flipped (files and bytes evenly) and all of it is read in a
process of its own: by what opens a checkpoint, by `tools.store check` and the sources. What came of it is `named` (an
error that names a file of the folder), `same` (the same was read), `other` (something else was read, and nothing said),
`raw` (an error without a name) or `died` (a signal, or longer than a minute). What the project writes must only be
`named` or `same`; of the sources `other` is left where a format has no checksum.
"""

import argparse
import hashlib
import io
import json
import os
import pickle
import random
import signal
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from data_pipeline.seal import seal
from data_pipeline.sources import files, parquet, tar_tree, tokens, webdataset
from pretrain import digests, storage
from pretrain.checkpoint import Checkpointer, load_params, read_info
from pretrain.step import TrainState
from tools import store

EXAMPLES = 12
RESULTS = Path(__file__).parent / "results" / "flips.json"


class Position:
    """A place in the data."""

    def __init__(self, at=None):
        self.at = at

    def get_state(self):
        return self.at

    def set_state(self, at):
        self.at = at


def arrays(seed=0) -> dict:
    rng = np.random.default_rng(seed)
    return {"model": {name: rng.normal(size=(64, 64)).astype(np.float32) for name in "abc"}}


def png(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(file: Path, members: dict):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


# -- What is written: build(folder) ----------------------------------------------------------------------------------


def build_workdir(folder):
    storage.write_config(folder, {"optim": {"lr": 1e-3}, "steps": 20, "data": {"path": "tokens"}})
    storage.write_rows(folder / "metrics.jsonl", [{"step": i, "loss": 1 / i} for i in range(1, 11)])
    with Checkpointer(folder, last=2, best=True, info={"source": "a"}) as checkpointer:
        for step in (5, 10):
            moments = {"m": np.ones(9, np.float32)}
            state = TrainState(np.asarray(step, np.int32), arrays(step), moments, arrays(step + 1))
            checkpointer.save(state, Position({"next_index": 8 * step}), metric=1.0 / step)


def build_store(folder):
    codes = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    folder.mkdir(exist_ok=True)
    about = {"vocab_size": 16, "shape": [4, 4], "modalities": ["rgb"]}
    about["codes"] = tokens.write_codes(folder, "rgb", codes)
    writer = tokens.Writer(folder, tokenizers={"rgb": about}, licence="none", shard_size=8)
    rows = ({"row": i, "rgb": np.arange(16) % (i + 1), "caption": f"a {i}"} for i in range(EXAMPLES))
    writer.write_split("train", rows)
    writer.close()


def build_export(folder):
    from safetensors.numpy import save_file

    save_file(arrays()["model"], folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model": {"dim": 16}}))
    digests.write(folder)


def build_prepared(folder):
    build_webdataset(folder / "train")
    shard = next((folder / "train").glob("*.tar"))
    about = {"examples": EXAMPLES, "sha256": tokens.sha256(shard)}
    report = {"plan": {}, "splits": {}, "shards": {f"train/{shard.name}": about}}
    (folder / "report.json").write_text(json.dumps(seal(report), indent=1))


def build_files(folder):
    lines = []
    for i in range(EXAMPLES):
        (folder / f"{i}.png").write_bytes(png(i))
        lines.append(json.dumps({"image": f"{i}.png", "caption": f"a {i}", "label": i % 3}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def build_webdataset(folder):
    members = {}
    for i in range(EXAMPLES):
        members |= {f"{i:03d}.png": png(i), f"{i:03d}.json": json.dumps({"caption": f"a {i}"}).encode()}
    tar(folder / "train-000000.tar", members)


def build_tar_tree(folder):
    tar(folder / "train" / "rgb" / "shard-00000.tar", {f"{i:03d}.png": png(i) for i in range(EXAMPLES)})
    captions = {f"{i:03d}.txt": f"a {i}".encode() for i in range(EXAMPLES)}
    tar(folder / "train" / "caption" / "shard-00000.tar", captions)


def build_parquet(folder):
    import pyarrow
    import pyarrow.parquet

    rows = [{"image": {"bytes": png(i), "path": f"{i}.png"}, "caption": f"a {i}"} for i in range(EXAMPLES)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-0.parquet", row_group_size=4)


# -- How it is read: read(folder) ------------------------------------------------------------------------------------


def read_workdir(folder):
    out = [storage.read_config(folder), read_info(folder), load_params(folder), load_params(folder, 5, ema=False)]
    position, like = Position(), TrainState(np.int32(0), arrays(), {"m": np.ones(9, np.float32)}, arrays())
    with Checkpointer(folder, last=2, best=True) as checkpointer:
        state = checkpointer.restore(jax.tree.map(jnp.asarray, like), position)
    return [*out, jax.device_get(state._asdict()), position.at]


def checked(folder):
    if problems := store.check(folder):
        raise ValueError("; ".join(problems))


def examples(module, folder):
    source = module.Source(folder, "train")
    return [len(source), *(sorted(source[i].items(), key=lambda kv: kv[0]) for i in range(len(source)))]


def read_store(folder):
    checked(folder)
    return [examples(tokens, folder), tokens.read_codes(folder, "rgb"), tokens.read_manifest(folder)]


OURS = {
    "workdir": (build_workdir, read_workdir),
    "store": (build_store, read_store),
    "export": (build_export, checked),
    "prepared": (build_prepared, checked),
}
SOURCES = {
    "files": (build_files, lambda folder: examples(files, folder)),
    "webdataset": (build_webdataset, lambda folder: examples(webdataset, folder)),
    "tar_tree": (build_tar_tree, lambda folder: examples(tar_tree, folder)),
    "parquet": (build_parquet, lambda folder: examples(parquet, folder)),
}
CASES = OURS | SOURCES


def apart(function, folder: Path, seconds: float = 60.0) -> tuple[str, str]:
    """("read", digest of what it returned), ("error", its text) or ("died", how), from a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        try:
            answer = "read", hashlib.sha256(pickle.dumps(function(folder))).hexdigest()
        except BaseException as e:
            answer = "error", f"{type(e).__name__}: {e}"
        os.write(writer, json.dumps(answer).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    deadline = time.time() + seconds
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.time() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reader)
            return "died", "after a minute"
        time.sleep(0.002)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    return tuple(json.loads(data)) if data else ("died", "by a signal")


def flip(file: Path, rng) -> tuple[int, int]:
    """Flips a bit and leaves the time of the file as it is, as a disk would; (which byte, which bit)."""
    data, stat = bytearray(file.read_bytes()), file.stat()
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    data[at] ^= 1 << bit
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return at, bit


def measure(case: str, flips: int, seed: int) -> dict:
    build, read = CASES[case]
    rng, counts, told = random.Random(f"{seed} {case}"), Counter(), []
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept) / case
        folder.mkdir()
        # In a process of its own too: what has computed cannot be forked.
        for function in (build, read):
            kind, whole = apart(function, folder)
            if kind != "read":
                raise SystemExit(f"{case}: {function.__name__}: {whole}")
        names = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.stat().st_size]
        for _ in range(flips):
            file = rng.choice(names)
            before, stat = file.read_bytes(), file.stat()
            where = flip(file, rng)
            kind, answer = apart(read, folder)
            if kind == "read":
                kind = "same" if answer == whole else "other"
            elif kind == "error":
                kind = "named" if str(folder) in answer else "raw"
            counts[kind] += 1
            if kind in ("raw", "died") or (kind == "other" and case in OURS):
                told.append({"file": str(file.relative_to(folder)), "byte, bit": where, kind: answer[:200]})
            file.write_bytes(before)
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return dict(counts) | ({"told": told[:20]} if told else {})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=250, help="of each case (default 250)")
    parser.add_argument("--cases", default=",".join(CASES), help="which, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(RESULTS))
    args = parser.parse_args()
    results = {}
    for case in args.cases.split(","):
        results[case] = measure(case, args.flips, args.seed)
        print(case, {k: v for k, v in results[case].items() if k != "told"}, flush=True)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    storage.write(args.out, json.dumps(results, indent=1) + "\n")
    print(f"wrote {args.out}")
    sys.exit(any({"raw", "died", "other"} & results[case].keys() for case in OURS if case in results))


if __name__ == "__main__":
    main()
