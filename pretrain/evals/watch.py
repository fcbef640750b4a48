"""Follows a run: scores every new checkpoint once, without touching what the training writes."""

import time

from pretrain.build import read_run
from pretrain.checkpoint import steps
from pretrain.evals import harness
from pretrain.restore import restore
from pretrain.storage import locate, read_rows, write_rows

FILE = "evals.jsonl"


def watch(workdir, names=(), *, poll: float = 30.0, data: dict | None = None) -> list[dict]:
    """Appends {"step", "task/name": value, …} to WORKDIR/evals.jsonl for every checkpoint, the oldest first.

    Tasks and data are checked before there is a checkpoint. Ends when the run's last step is scored. Steps that the
    file holds are not scored again; a checkpoint that the training removes before or while it is read is passed over.
    Returns the lines that it wrote.
    """
    run = read_run(workdir)
    tasks, left_out = harness.make_tasks(harness.open_context(workdir, run, data), names)
    for name, reason in left_out.items():
        print(f"without {name}: {reason}", flush=True)
    done, failing, written = _scored(workdir), set(), []
    while True:
        for step in (s for s in steps(workdir) if s not in done):
            try:
                params = restore(workdir, step).params
            except Exception:
                # Orbax deletes file by file: a checkpoint that fails to open may be one that is just going.
                if step in failing:
                    raise
                failing.add(step)
                time.sleep(1.0)
                continue
            values = harness.score(tasks, params)
            line = {"step": step} | {name: float(value) for name, value in values.items()}
            _append(workdir, line)
            print(f"step {step}: {len(values)} scores", flush=True)
            done.add(step)
            failing.discard(step)
            written.append(line)
        for step in failing.difference(steps(workdir)):
            print(f"step {step}: removed before it could be read", flush=True)
            failing.remove(step)
            done.add(step)
        if run.steps in done and not failing:
            return written
        time.sleep(poll)


def _scored(workdir) -> set[int]:
    return {row["step"] for row in read_rows(locate(workdir) / FILE)[0]}


def _append(workdir, line: dict):
    """Written anew each time: nothing can be appended to a file in a bucket, and it is small."""
    file = locate(workdir) / FILE
    write_rows(file, [*read_rows(file)[0], line])
