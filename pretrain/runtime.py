"""Around the loop: joining the other processes, what runs here, stopping in time, and claiming a workdir."""

import contextlib
import difflib
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import socket
import sys
import threading
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from pretrain.lock import Lock
from pretrain.sharding import gib
from pretrain.storage import Spool, locate, read_config, write_config

# Keys that may differ when a run is continued: what is shown and kept and where it runs and its data lie, not what is
# learned. `train.check_data` compares the data themselves.
FREE_KEYS = ("log", "checkpoint", "evals", "final_evals", "mesh")
FREE_DATA_KEYS = ("workers", "path")
STOPPED = 75  # exit status of a run that a signal stopped and that the same command continues (EX_TEMPFAIL)


def join(coordinator: str = "", processes: int = 0, process_id: int = -1, timeout: int = 300):
    """Joins the other processes of the run, before anything touches a device; alone where nothing tells of others.

    coordinator `HOST:PORT`, processes and process_id say where they are; without them SLURM, Open MPI, Kubernetes and
    TPU pods are recognised by what they set. After `timeout` seconds of waiting the program ends with advice, and with
    the status of a run that may be started again.
    """
    if processes == 1:
        return
    given = dict(coordinator_address=coordinator or None, num_processes=processes or None)
    given["process_id"] = None if process_id < 0 else process_id
    told = [name for name, value in given.items() if value is not None]
    if told and len(told) < 3:
        raise ValueError("--coordinator, --processes and --process_id go together: give all of them, or none")
    if told and not process_id < processes:
        raise ValueError(f"--process_id={process_id}: must be below --processes={processes}")
    where = coordinator or "the address that the cluster gives"

    def give_up():
        print(
            f"the processes of this run did not all come to {where} within {timeout} s: check that every one was "
            "started with the same --coordinator and --processes and its own --process_id, that process 0 runs on that "
            "host, that no firewall closes the port and no other program holds it; a shell inside a cluster job that "
            "means to run alone gives --processes=1",
            file=sys.stderr,
            flush=True,
        )
        os._exit(STOPPED)

    # On CPUs two programs at a time could wait for each other's collectives.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    patience = threading.Timer(timeout, give_up)  # JAX's own time-out aborts the program without a word of advice
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(**given, initialization_timeout=timeout + 60)
    except ValueError as e:
        if told or "coordinator_address" not in str(e):
            raise
        jax.config.update("jax_cpu_enable_async_dispatch", True)  # nothing tells of others: alone
    finally:
        patience.cancel()


def check_alike(config_json: str):
    """Every process must run the same config, code and versions. ValueError that names who differs in what."""
    if jax.process_count() == 1:
        return
    parts = {"config": config_json, "code": _code(), "versions": _versions(), "python": platform.python_version()}
    digests = [hashlib.sha256(text.encode()).digest()[:8] for text in parts.values()]
    host = socket.gethostname().encode()[:64].ljust(64)
    mine = np.frombuffer(b"".join(digests) + host, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(mine))
    for i, row in enumerate(rows):
        unlike = [name for j, name in enumerate(parts) if (row[8 * j : 8 * j + 8] != rows[0][8 * j : 8 * j + 8]).any()]
        if unlike:
            name = row[8 * len(parts) :].tobytes().decode().strip()
            raise ValueError(
                f"process {i} on {name} differs from process 0 in its {' and '.join(unlike)}: start every process with "
                "the same command, from the same checkout and environment"
            )


def _code() -> str:
    """Digest of the Python files that a run is made of."""
    root = Path(__file__).parents[1]
    h = hashlib.sha256()
    for file in sorted(f for folder in ("pretrain", "data_pipeline") for f in (root / folder).rglob("*.py")):
        h.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return h.hexdigest()


def _versions() -> str:
    return " ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "flax", "orbax-checkpoint"))


def describe() -> str:
    """One line on processes, devices and versions."""
    d = jax.devices()
    machine = f"{jax.process_count()} process(es), {len(d)} × {d[0].device_kind}"
    return f"{machine} · python {platform.python_version()} {_versions()}"


def say(text: str):
    """Prints once a run, not once a process."""
    if jax.process_index() == 0:
        print(text, flush=True)


def on_first(work) -> int:
    """What `work()` gives on process 0, the only one that runs it; a ValueError of it is one on all, so none waits."""
    found, error = 0, ""
    if jax.process_index() == 0:
        try:
            found = work()
        except ValueError as e:
            error = str(e)
    if jax.process_count() > 1:
        found, failed = multihost_utils.broadcast_one_to_all(np.asarray([found or 0, bool(error)], np.int32))
        error = error or ("process 0 refused the workdir, see there" if failed else "")
    if error:
        raise ValueError(error)
    return found


@contextlib.contextmanager
def claim_workdir(workdir, config_json: str, whole=dict):
    """Locks the workdir and writes the config into it; gives True if an earlier run of the same config is continued.

    whole: a config → the same with its defaults, so that one which says them is the same as one that does not.
    ValueError if another program trains there, or with the difference if it belongs to another config.
    """
    with contextlib.ExitStack() as held:

        def claim():
            try:
                locate(workdir).mkdir(parents=True, exist_ok=True)
                held.enter_context(Lock(workdir))
                return _claim(workdir, config_json, whole)
            except OSError as e:
                raise ValueError(
                    f"workdir={workdir}: cannot be written ({e}); does the disk or bucket exist, and may this user "
                    "write?"
                ) from e

        yield bool(on_first(claim))


def _claim(workdir, config_json: str, whole) -> bool:
    file = locate(workdir) / "config.json"
    found = file.exists()
    if not found and (file.parent / "checkpoints").exists():
        raise ValueError(f"{workdir} holds checkpoints but no config.json; choose another --workdir")
    if found and (ours := _fixed(whole(json.loads(config_json)))) != (theirs := _fixed(whole(read_config(workdir)))):
        diff = "\n".join(difflib.unified_diff(theirs, ours, "the workdir's config", "this config", lineterm="", n=2))
        raise ValueError(
            f"workdir={workdir} belongs to a run of another config; take another --workdir or that config:\n{diff}"
        )
    write_config(workdir, json.loads(config_json))
    return found


def _fixed(values: dict) -> list[str]:
    """The lines of a config without its free keys."""
    kept = {k: v for k, v in values.items() if k not in FREE_KEYS}
    if isinstance(kept.get("data"), dict):
        kept["data"] = {k: v for k, v in kept["data"].items() if k not in FREE_DATA_KEYS}
        parts = kept["data"].get("sources") or ()
        kept["data"] |= {"sources": [{k: v for k, v in p.items() if k != "path"} for p in parts]} if parts else {}
    # What lies there is known by its digest where the run still needs it (`restore.describe_base`).
    kept["load"] = [{k: v for k, v in entry.items() if k != "workdir"} for entry in kept.get("load") or ()]
    kept["references"] = {
        name: {k: v for k, v in entry.items() if k != "workdir"}
        for name, entry in (kept.get("references") or {}).items()
    }
    if (kept.get("optim") or {}).get("final_lr") == 1.0:  # no step's learning rate hangs on how many there are
        kept.pop("steps", None)
    return json.dumps(kept, indent=1, sort_keys=True).splitlines()


def places(values: dict) -> list[str]:
    """Where a config says that its data lie."""
    data = values["data"]
    return [part.get("path", "") for part in data.get("sources") or [data]]


def describe_compiled(compiled, seconds: float) -> str:
    """One line on a compiled step."""
    memory = compiled.memory_analysis()
    held = f", {gib(memory.temp_size_in_bytes)} of temporaries a device beside the state" if memory else ""
    return f"compiled the step in {seconds:.1f} s{held}"


class Preemption:
    """`reached(step)` turns True after a SIGTERM or SIGINT: the loop then saves and leaves. A second one ends at once.

    Of several processes one may be told alone, by SIGTERM: JAX's coordination service finds a step at which all stop.
    """

    def __init__(self):
        self._told = False
        self._old = {}

    def reached(self, step: int) -> bool:
        return multihost_utils.reached_preemption_sync_point(step) if jax.process_count() > 1 else self._told

    def __enter__(self):
        # The coordination service has its own handler of SIGTERM.
        for s in (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ():
            self._old[s] = signal.signal(s, self._on_signal)
        return self

    def __exit__(self, *_):
        for s, handler in self._old.items():
            signal.signal(s, handler)

    def _on_signal(self, number, frame):
        self._told = True
        signal.signal(number, self._old[number])


class Profiler:
    """Traces the steps FIRST:LAST of `log.profile` into `workdir/profile`, to be opened with XProf or Perfetto."""

    def __init__(self, workdir, window: str):
        self._spool, self._running = Spool(workdir, "profile"), False
        self.first, self.last = parse_window(window)

    def before(self, step: int):
        if self.first <= step <= self.last and not self._running:
            jax.profiler.start_trace(str(self._spool.folder))
            self._running = True

    def after(self, step: int, state):
        if self._running and step >= self.last:
            self.close(state)

    def close(self, state=None):
        if self._running:
            jax.block_until_ready(state)  # what was only dispatched is not in a trace
            jax.profiler.stop_trace()
            self._running, self.last = False, 0
            self._spool.upload()


def parse_window(window: str) -> tuple[int, int]:
    """`100:105` → (100, 105); "" → (0, 0), which no step lies in."""
    if not window:
        return 0, 0
    first, _, last = window.partition(":")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
        raise ValueError(f"config.log.profile={window!r}: write FIRST:LAST, the steps to trace, such as 100:105")
    return int(first), int(last)
