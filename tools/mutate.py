"""python -m tools.mutate --each=8 pretrain/optim.py pretrain/objectives: how many small faults a module's tests notice.

A mutant is a module with one token changed: a comparison, an operator, `and`, `not`, `min`, a number by one, a default.
Of each module `--each` are drawn by `--seed`, and each is written into a copy of the tree under the temporary folder
(never into the tree itself, which a run that is killed leaves as it was), where the module's tests run until one fails.
A module's tests are those of its name, `pretrain/a/b.py` → `tests/a/test_b*.py`, and what TESTS names, or else those
beside them that name the module; slow ones do not run. Annotations, decorators, docstrings and the texts of errors are
no places for a mutant. A mutant under which the tests take three times as long, and half a minute more, counts as
caught: it hangs.

What survives although it changes nothing stands in tests/mutants.json with the reason, {"file", "before", "after",
"why"}, lines without indentation, and is not drawn. --out: a row a mutant, as they come: {"file", "line", "before",
"after", "outcome": "caught", "hung" or "survived", "seconds"}. The exit status says whether --least were caught.
mutmut 3 leaves out decorated functions (all that `jax.jit` and `custom_vjp` stand above) and what is outside functions,
such as a config's defaults; Cosmic Ray 8 writes into the tree itself; neither draws a sample.
"""

import argparse
import ast
import collections
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ROOT / "tests/mutants.json"
CORE = ("pretrain/ops", "pretrain/objectives", "pretrain/generate", "pretrain/step.py", "pretrain/optim.py",
        "pretrain/parameters.py", "pretrain/adapt.py", "pretrain/ways.py", "pretrain/checkpoint.py",
        "data_pipeline/sources", "data_pipeline/structured.py", "data_pipeline/text.py", "data_pipeline/image.py",
        "data_pipeline/pictures.py", "data_pipeline/picture_file.py", "data_pipeline/folders.py")  # fmt: skip
FAULTS = "tests/faults/test_{}.py".format
# Tests of another name that are a module's own, too.
TESTS = {
    "pretrain/checkpoint.py": ("tests/test_storage.py", FAULTS("damaged_checkpoints")),
    "pretrain/objectives/masked.py": ("tests/objectives/test_masking_by_source.py",),
    "pretrain/ops/counting.py": ("tests/ops/test_cross_entropy.py",),
    "pretrain/ways.py": ("tests/test_adapt.py",),
    "pretrain/ops/tiles.py": ("tests/ops/test_cross_entropy.py", "tests/ops/test_experts.py"),
    "pretrain/objectives/absence.py": ("tests/objectives/test_stepwise.py",),
    "pretrain/objectives/corruptions.py": ("tests/objectives/test_cross.py", "tests/objectives/test_reconstruction.py"),
    **{
        f"pretrain/objectives/{name}.py": ("tests/objectives/test_lxmert.py",)
        for name in ("answers", "masked_words", "matching", "paired", "region_features", "region_labels")
    },
    **{f"pretrain/objectives/{name}.py": ("tests/objectives/test_boosting.py",) for name in ("anchored", "mutual")},
    **{
        f"pretrain/objectives/{name}.py": ("tests/objectives/test_gill.py",)
        for name in ("next_token", "row_norms", "sequence_contrast", "sequences", "token_distance")
    },
    "pretrain/objectives/identification.py": ("tests/objectives/test_irra.py",),
    **{
        f"pretrain/objectives/targets/{name}.py": ("tests/objectives/test_targets.py",)
        for name in ("base", "identity", "labels", "teacher")
    },
    "pretrain/ops/ring.py": ("tests/ops/test_pairs.py",),
    "pretrain/generate/schedule.py": ("tests/generate/test_draw.py",),
    "pretrain/generate/chain.py": ("tests/generate/test_parallel.py", "tests/generate/test_sequence.py"),
    "data_pipeline/image.py": (
        "tests/data_pipeline/test_pixels.py",
        "tests/data_pipeline/test_augmentation.py",
        FAULTS("pixel_depth"),
    ),
    "data_pipeline/pictures.py": ("tests/data_pipeline/test_pixels.py", FAULTS("pixel_depth"), FAULTS("picture_files")),
    "data_pipeline/picture_file.py": (FAULTS("picture_files"),),
    "data_pipeline/structured.py": (FAULTS("codecs"),),
    "data_pipeline/text.py": (FAULTS("texts"),),
    "data_pipeline/folders.py": (FAULTS("folders"),),
    "data_pipeline/sources/files.py": (FAULTS("folders"),),
    "data_pipeline/sources/moving_emoji.py": ("tests/data_pipeline/test_video.py",),
    **{
        f"pretrain/objectives/{name}.py": ("tests/objectives/test_cross.py",)
        for name in ("contrastive", "edges", "matryoshka", "sigmoid", "symile", "triplet", "uniformity")
    },
}

SIGNS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.BitAnd: "&", ast.BitOr: "|", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==",
    ast.NotEq: "!=", ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in", ast.And: "and",
    ast.Or: "or", ast.Not: "not ", ast.USub: "-", ast.Invert: "~",
}  # fmt: skip
INSTEAD = {
    "+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "//", "**": "*", "&": "|", "|": "&", "<": "<=", "<=": "<",
    ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is", "in": "not in", "not in": "in",
    "and": "or", "or": "and", "not ": "", "~": "",
}  # fmt: skip
NAMES = {"min": "max", "minimum": "maximum", "argmin": "argmax", "any": "all", "floor": "ceil", "sum": "mean"}
NAMES |= {b: a for a, b in NAMES.items()}


def mutants(source: str) -> list[tuple[int, int, str]]:
    """(start, end, other text) of every token of a module that may be changed, in bytes of its UTF-8."""
    raw = source.encode()
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    begin = lambda node: starts[node.lineno - 1] + node.col_offset
    end = lambda node: starts[node.end_lineno - 1] + node.end_col_offset
    found = []

    def operator(kind, low, high):
        """The sign of an operator, somewhere between its operands and not in a comment."""
        sign = SIGNS.get(type(kind))
        gap = re.sub(rb"#[^\n]*", lambda m: b" " * len(m[0]), raw[low:high])
        if sign in INSTEAD and (at := gap.find(sign.encode())) >= 0:
            found.append((low + at, low + at + len(sign.encode()), INSTEAD[sign]))

    for node in _places(ast.parse(source)):
        match node:
            case ast.BinOp():
                operator(node.op, end(node.left), begin(node.right))
            case ast.AugAssign():
                operator(node.op, end(node.target), begin(node.value))
            case ast.BoolOp():
                for a, b in zip(node.values, node.values[1:]):
                    operator(node.op, end(a), begin(b))
            case ast.Compare():
                for op, a, b in zip(node.ops, [node.left, *node.comparators], node.comparators):
                    operator(op, end(a), begin(b))
            case ast.UnaryOp() if not isinstance(node.operand, ast.Constant):  # the sign of an axis of two: the same
                operator(node.op, begin(node), begin(node.operand))
            case ast.Constant(value=bool()):
                found.append((begin(node), end(node), str(not node.value)))
            case ast.Constant(value=int() | float()):
                found += [(begin(node), end(node), repr(node.value + by)) for by in (1, -1)]
            case ast.Name(id=name) if name in NAMES:
                found.append((begin(node), end(node), NAMES[name]))
            case ast.Attribute(attr=name) if name in NAMES:
                found.append((end(node) - len(name), end(node), NAMES[name]))
    return sorted(found)


def _places(node):
    """The nodes under which a change is one of what the module does."""
    yield node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in ("annotation", "returns", "decorator_list"):
                if not isinstance(child, (ast.Raise, ast.JoinedStr, ast.Assert)):
                    yield from _places(child)


def row(path: str, source: str, mutant) -> dict:
    """What a mutant changes: {"file", "line", "before", "after"}."""
    low, high, text = mutant
    raw = source.encode()
    first, last = raw.rfind(b"\n", 0, low) + 1, raw.find(b"\n", high) % (len(raw) + 1)
    before, after = raw[first:last], raw[first:low] + text.encode() + raw[high:last]
    return {"file": path, "line": raw.count(b"\n", 0, low) + 1,
            "before": before.decode().strip(), "after": after.decode().strip()}  # fmt: skip


def draw(path: str, source: str, known, each: int = 8, seed: int = 0) -> list:
    """`each` of a module's mutants but those known to change nothing."""
    every = mutants(source)
    order = random.Random(f"{seed} {path}").sample(every, len(every))
    texts = ([row(path, source, m)[k] for k in ("file", "before", "after")] for m in order)
    return [m for m, text in zip(order, texts) if tuple(text) not in known][:each]


def tests_of(path: str) -> list[str]:
    below = Path("tests", *Path(path).parts[path.startswith("pretrain/") :])
    folders = (ROOT / below.parent, ROOT / below.parent.parent)  # tests of sources and quantizers lie one above
    own = next(filter(None, (sorted(f.glob(f"test_{below.stem}*.py")) for f in folders)), [])
    if not own and path not in TESTS:  # such as a published system's, whose tests name its objectives
        named = re.compile(rf"\b{below.stem}\b")
        found = ([p for p in sorted(f.glob("test_*.py")) if named.search(p.read_text())] for f in folders)
        own = next(filter(None, found), [])
    own = [str(p.relative_to(ROOT)) for p in own]
    return [*own, *(t for t in TESTS.get(path, ()) if t not in own)]


def run_tests(tree: Path, tests, timeout: float | None) -> tuple[str, float]:
    """("passed", "failed" or "hung", seconds) of these tests in this tree."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    # Python takes a file of the same second and size for the same one: no bytecode.
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "JAX_COMPILATION_CACHE_DIR": str(tree / ".cache/jax")}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    start, log = time.time(), tree / "pytest.log"
    with open(log, "w") as out:
        process = subprocess.Popen(command, cwd=tree, env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            outcome = "failed" if process.wait(timeout) else "passed"
        except subprocess.TimeoutExpired:
            outcome = "hung"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return outcome, time.time() - start


def try_module(tree: Path, path: str, known, sound: dict, **which):
    """Yields a row for every mutant drawn of a module, with what became of it.

    sound: what tests did without one; which: as of `draw`.
    """
    source, tests = (ROOT / path).read_text(), tests_of(path)
    drawn = draw(path, source, known, **which)
    if not drawn:
        return
    if not tests:
        raise ValueError(f"{path}: no test has its name; add those that test it to TESTS in {__file__}")
    if tuple(tests) not in sound:
        sound[tuple(tests)] = run_tests(tree, tests, None)
    outcome, seconds = sound[tuple(tests)]
    if outcome != "passed":
        raise ValueError(f"{path}: its tests fail without a mutant:\n{(tree / 'pytest.log').read_text()[-3000:]}")
    for low, high, text in drawn:
        raw = source.encode()
        (tree / path).write_bytes(raw[:low] + text.encode() + raw[high:])
        outcome, took = run_tests(tree, tests, 3 * seconds + 30)
        name = {"passed": "survived", "failed": "caught", "hung": "hung"}[outcome]
        yield row(path, source, (low, high, text)) | {"outcome": name, "seconds": round(took, 1)}
    (tree / path).write_text(source)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=CORE, help="files and folders; the core if none is named")
    parser.add_argument("--each", type=int, default=8, help="mutants a module")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--least", type=float, default=0.92, help="the share that must be caught")
    parser.add_argument("--out", default="", help="a JSON lines file for a row a mutant")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the tests end, too, and their copy goes
    paths = [p for arg in args.paths for p in (sorted((ROOT / arg).rglob("*.py")) or [ROOT / arg])]
    known = {(k["file"], k["before"], k["after"]) for k in json.loads(KNOWN.read_text())}
    counts, sound = collections.defaultdict(collections.Counter), {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
        for file in filter(None, files):
            (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, Path(folder) / file)
        for path in (str(p.relative_to(ROOT)) for p in paths):
            for one in try_module(Path(folder), path, known, sound, each=args.each, seed=args.seed):
                counts[path][one["outcome"]] += 1
                if args.out:
                    with open(args.out, "a") as out:
                        out.write(json.dumps(one) + "\n")
                print("{outcome:8} {seconds:6} s  {file}:{line}  {before}  →  {after}".format(**one), flush=True)
    total = sum(counts.values(), collections.Counter())
    for path, c in counts.items():
        print(f"{path}: {c.total() - c['survived']} of {c.total()}")
    caught = total.total() - total["survived"]
    print(f"caught {caught} of {total.total()} mutants, {total['hung']} of them as hung, seed {args.seed}")
    sys.exit(caught < args.least * total.total())


if __name__ == "__main__":
    main()
