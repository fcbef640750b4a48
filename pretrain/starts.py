"""How a run was started: every time that it is, a row of `WORKDIR/starts.jsonl`."""

import datetime
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import jax

from pretrain.storage import locate, read_rows, write_rows

FILE = "starts.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def note(workdir, step: int):
    """Adds that the run goes on from a step, now, by this command, these versions and this code. Once a run: process 0
    writes."""
    if jax.process_index() == 0:
        file = locate(workdir) / FILE
        write_rows(file, [*read_rows(file)[0], {"step": step} | about()])


def about() -> dict:
    """Of this process: when, its command, versions, devices, and the commit of its code where git knows it."""
    devices = jax.devices()
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "processes": jax.process_count(),
    }


def commit() -> str:
    """The commit of the checkout that this code is of, with `+` if it was changed since; "" of an installed one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    git = lambda *args: subprocess.run(
        ["git", "-C", root, *args], capture_output=True, text=True, check=False, timeout=30
    )
    try:
        found, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return ""
    return found.stdout.strip() + "+" * bool(changed.stdout.strip()) if found.returncode == 0 else ""


def read(workdir) -> list[dict]:
    """The starts of a run, the first one first; [] of one that tells of none."""
    return read_rows(locate(workdir) / FILE)[0]
