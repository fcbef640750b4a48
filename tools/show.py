"""python -m tools.show WORKDIR: what a run is, how far it is, its scores, and what can be done with it."""

import argparse
import json
import math
import os

import numpy as np

from pretrain import build, checkpoint, phases, starts
from pretrain.evals.metrics import continual
from pretrain.storage import locate, read_rows

MOST = 12  # scores


def describe(workdir) -> str:
    """Lines about a workdir. FileNotFoundError if it is none."""
    if (locate(workdir) / phases.FILE).exists():
        return "\n".join(_phases(workdir))
    run = build.read_run(workdir)
    return "\n".join(
        [*_about(run), *_progress(workdir, run), *_started(workdir), *_scores(workdir), *_next(workdir, run)]
    )


def _phases(workdir) -> list[str]:
    """Of a run in phases: every score that all domains share, a row a phase, and what it comes to."""
    held = json.loads((locate(workdir) / phases.FILE).read_text())
    names = list(held)
    shared = set.intersection(*(set(scores) for row in held.values() for scores in row.values()))
    lines = [f"phases       {', '.join(names)}; each is a workdir of its own"]
    for key in sorted(shared):
        matrix = [[row.get(domain, {}).get(key, math.nan) for domain in names] for row in held.values()]
        lines.append(f"{key}, a row after each phase, a column a domain")
        lines += ["             " + "  ".join(f"{value:.3f}" for value in row) for row in matrix]
        if len(matrix) > 1 and np.isfinite(matrix).all():
            lines.append("             " + ", ".join(f"{k} {v:.3f}" for k, v in continual(matrix).items()))
    return lines


def _about(run) -> list[str]:
    data = ", ".join(f"{part.source} {part.path}".strip() for part in run.data.sources or (run.data,))
    return [
        f"objectives   {', '.join(run.objectives)}",
        f"modalities   {', '.join(f'{m.name} ({m.kind})' for m in run.modalities)}",
        f"data         {data}",
    ]


def _progress(workdir, run) -> list[str]:
    rows, saved = read_rows(locate(workdir) / "metrics.jsonl")[0], checkpoint.steps(workdir)
    last = {}
    for row in rows:
        last |= row
    losses = [
        f"{key} {last[key]:.4g}" for key in ("loss", *sorted(k for k in last if k.endswith("/loss"))) if key in last
    ]
    return [
        f"progress     step {last.get('step', 0):,} of {run.steps:,}, batches of {run.batch_size}; {', '.join(losses)}",
        f"checkpoints  {', '.join(f'{step:,}' for step in saved) or 'none yet'}",
    ]


def _started(workdir) -> list[str]:
    lines = []
    for start in starts.read(workdir):
        code = f", commit {start['commit'][:10]}{'+' * start['commit'].endswith('+')}" if start["commit"] else ""
        versions = f"Python {start['python']}, JAX {start['versions']['jax']}"
        lines.append(f"started      {start['time']} at step {start['step']:,}, {start['devices']}, {versions}{code}")
        lines.append(f"             {start['command']}")
    return lines


def _scores(workdir) -> list[str]:
    file = locate(workdir) / "eval.json"
    if not file.exists():
        return []
    (first, *_) = json.loads(file.read_text())["checkpoints"]
    known = [(name, s) for name, s in first["scores"].items() if not name.startswith("nll/")]
    lines = []
    for name, s in known[:MOST]:
        beside = [f"{key} {s[key]:.3f}" for key in ("chance", "raw", "untrained") if s.get(key) is not None]
        lines.append(
            f"{'scores' if not lines else '':12} {name} {s['value']:.3f}"
            + (f" ({', '.join(beside)})" if beside else "")
        )
    more = len(first["scores"]) - len(lines)
    return lines + ([f"             {more} more in {file}"] if more else [])


def _next(workdir, run) -> list[str]:
    saved = checkpoint.steps(workdir)
    if not saved or saved[-1] < run.steps:
        return ["next         the command that started it goes on where it stopped"]
    wanted = [
        f"python -m pretrain.evals --checkpoint={workdir}",
        f"python -m tools.export --workdir={workdir} --out=DIR",
    ]
    return [f"{'next' if i == 0 else '':12} {command}" for i, command in enumerate(wanted)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=os.path.expanduser)
    args = parser.parse_args(argv)
    try:
        print(describe(args.workdir))
    except (FileNotFoundError, ValueError) as e:
        parser.exit(1, f"{parser.prog}: {e}\n")


if __name__ == "__main__":
    main()
