"""`python -m tools.experiments.kill --kills=100 --workers=0,2`: does a run survive SIGKILL at any moment?

A small tokenizer of the emoji corpus is trained once without a break. Then it is started again and again in another
workdir and killed by SIGKILL, a quarter of the times at any moment after its start, else some time after a step,
until it comes to its end; then in a new workdir, until there were so many kills. Every finished run must have the
parameters and averages of the unbroken one to the bit, and its log every step once with the same losses. After a kill
no process of it may be left; at the end nothing of its time in shared memory. The unbroken run's open files are counted
as it goes. A life is a fork of this program, which has imported everything and computed nothing.
"""

import copy
import json
import multiprocessing.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from pretrain.checkpoint import load_params
from pretrain.storage import write
from pretrain.train import train

TAG = "TOKENLOOM_KILL"  # in the environment of everything that a life starts
STEPS, EVERY = 60, 3
CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/emoji_tokenizer.py:gray-fsq-linear", "A tokenizer, of which a small one is made."
)
KILLS = flags.DEFINE_integer("kills", 100, "For each number of workers.")
WORKERS = flags.DEFINE_list("workers", ["0", "2"], "How many workers load data.")
SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
OUT = flags.DEFINE_string("out", str(Path(__file__).parent / "results" / "kill.json"), "The file of what came out.")


def config(workers: int):
    c = copy.deepcopy(CONFIG.value)
    with c.unlocked():
        c.modalities = [{**m, "shape": (16, 16, 1)} for m in c.modalities[:1]]
        c.model.decoder, c.model.fixed_encoder = dict(network="patches", patch=8, dim=32, mlps=1), False
        c.steps, c.batch_size, c.optim, c.evals = STEPS, 8, dict(lr=1e-3, warmup=1), {}
        c.log.every, c.log.tensorboard, c.data.workers = 1, False, workers
        c.checkpoint.every, c.checkpoint.keep = EVERY, 2
    return c


class Life:
    """One start of the program."""

    def __init__(self, workdir: Path, workers: int):
        self.tag, self.log, self.workdir = uuid.uuid4().hex, Path(f"{workdir}.log"), workdir
        self.status = None
        self.pid = fork(self._train, workers)

    def _train(self, workers):
        os.environ[TAG] = self.tag
        with open(self.log, "ab") as out:
            for number in (1, 2):
                os.dup2(out.fileno(), number)
        train(config(workers), self.workdir)

    def logged(self) -> int:
        """The last step that metrics.jsonl has."""
        file = self.workdir / "metrics.jsonl"
        lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def runs(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is None

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def orphans(self, grace: float = 60.0) -> int:
        """How many of its processes are left so many seconds after its end: one that just starts first imports."""
        deadline = time.time() + grace
        while (left := self.left()) and time.time() < deadline:
            time.sleep(0.05)
        return len(left)

    def left(self) -> list[int]:
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_mine(pid)]

    def _is_mine(self, pid: int) -> bool:
        try:
            return f"{TAG}={self.tag}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False


def fork(function, *args) -> int:
    """The pid of a child that calls it; its exit status is 1 if that raises."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        function(*args)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        multiprocessing.util._exit_function()  # ends the workers, as at the end of a program
        sys.stdout.flush()
        os._exit(status)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def unbroken(workdir, workers: int) -> dict:
    """Runs to the end; its open files after a third of the steps and shortly before the last, and its seconds."""
    life, start, counts = Life(workdir, workers), time.time(), {}
    while life.runs():
        at = life.logged()
        if at and life.runs():
            counts[at] = descriptors(life.pid)
        time.sleep(0.05)
    if life.status:
        raise SystemExit(f"the run without a kill failed:\n{life.log.read_text()}")
    early = max(v for k, v in counts.items() if k <= STEPS // 2)
    late = max(v for k, v in counts.items() if k > STEPS // 2)
    return {"descriptors_first_half": early, "descriptors_second_half": late, "seconds": round(time.time() - start, 1)}


def live(workdir, workers: int, rng, longest: float, kills: int) -> dict:
    """Starts and kills until it ends by itself, at most `kills` times."""
    found = {"kills": 0, "orphans": 0}
    while True:
        life = Life(workdir, workers)
        killing = found["kills"] < kills
        until = time.time() + (rng.uniform(0, longest) if rng.random() < 0.25 else 1e9)
        first, after = life.logged(), rng.uniform(0, 2.0)
        while life.runs() and not (killing and time.time() > until):
            if until > time.time() + 1e8 and life.logged() > first:
                until = time.time() + after
            time.sleep(0.01)
        if not life.runs():
            if life.status:
                raise SystemExit(f"a run that was continued failed:\n{life.log.read_text()}")
            found["orphans"] += life.orphans()
            return found
        life.kill()
        found["orphans"] += life.orphans()
        found["kills"] += 1


def differences(a, b) -> list[str]:
    """`compare`, in a process of its own: what has computed cannot be forked."""
    file = Path(f"{b}.differences")
    os.waitpid(fork(lambda: file.write_text(json.dumps(compare(a, b)))), 0)
    return json.loads(file.read_text())


def compare(a, b) -> list[str]:
    """What differs between two finished runs."""
    problems = []
    for ema in (False, True):
        ours, theirs = (jax.tree.leaves(load_params(w, ema=ema)) for w in (a, b))
        if not all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True)):
            problems.append(f"{b}: parameters differ (ema={ema})")
    logs = [[json.loads(row) for row in (Path(w) / "metrics.jsonl").read_text().splitlines()] for w in (a, b)]
    if [(r["step"], r["loss"]) for r in logs[0]] != [(r["step"], r["loss"]) for r in logs[1]]:
        problems.append(f"{b}: the log differs")
    return problems


def shared_memory(since: float) -> set[str]:
    files = [f for f in Path("/dev/shm").glob("psm_*") if f.stat().st_mtime >= since]
    return {f.name for f in files}


def measure(kills: int, workers: int, seed: int, folder: Path) -> dict:
    rng, start = random.Random(seed), time.time()
    whole = unbroken(folder / f"whole-{workers}", workers)
    found = {"kills": 0, "orphans": 0, "runs": 0, "differences": [], **whole}
    while found["kills"] < kills:
        workdir = folder / f"killed-{workers}-{found['runs']}"
        for key, value in live(workdir, workers, rng, whole["seconds"], kills - found["kills"]).items():
            found[key] += value
        found["runs"] += 1
        found["differences"] += differences(folder / f"whole-{workers}", workdir)
        print(f"{workers} workers: {found}", flush=True)
        shutil.rmtree(workdir)
    time.sleep(10)  # what others on this machine just pass on is gone by then
    left = shared_memory(start) & shared_memory(start)
    return found | {"shared_memory_left": len(left)}


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in map(int, WORKERS.value):
            results[f"{workers} workers"] = measure(KILLS.value, workers, SEED.value, Path(folder))
    Path(OUT.value).parent.mkdir(parents=True, exist_ok=True)
    write(OUT.value, json.dumps(results, indent=1) + "\n")
    print(f"wrote {OUT.value}")
    bad = [r for r in results.values() if r["differences"] or r["orphans"] or r["shared_memory_left"]]
    sys.exit(bool(bad))


if __name__ == "__main__":
    app.run(main)
