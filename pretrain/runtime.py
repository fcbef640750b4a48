"""Around the loop: what runs here, stopping in time, and claiming a workdir."""

import difflib
import importlib.metadata
import json
import platform
import signal
from pathlib import Path

import jax

# Keys that may differ when a run is continued: they change what is shown and kept, not what is learned.
FREE_KEYS = ("log", "checkpoint", "evals", "final_evals")


def describe() -> str:
    """One line on processes, devices and versions."""
    d = jax.devices()
    versions = " ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "flax", "orbax-checkpoint"))
    machine = f"{jax.process_count()} process(es), {len(d)} × {d[0].device_kind}"
    return f"{machine} · python {platform.python_version()} {versions}"


def claim_workdir(workdir, config_json: str) -> bool:
    """Writes the config into a new workdir; True if an earlier run of the same config is there to be continued.

    ValueError with the difference if the workdir belongs to another config.
    """
    file = Path(workdir) / "config.json"
    if not file.exists():
        if (Path(workdir) / "checkpoints").exists():
            raise ValueError(f"{workdir} holds checkpoints but no config.json; choose another --workdir")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(config_json)
        return False
    ours, theirs = (_fixed(text) for text in (config_json, file.read_text()))
    if ours != theirs:
        diff = "\n".join(difflib.unified_diff(theirs, ours, "the workdir's config", "this config", lineterm="", n=2))
        raise ValueError(
            f"workdir={workdir} belongs to a run of another config; take another --workdir or that config:\n{diff}"
        )
    file.write_text(config_json)
    return True


def _fixed(config_json: str) -> list[str]:
    """The lines of a config without its free keys."""
    kept = {k: v for k, v in json.loads(config_json).items() if k not in FREE_KEYS}
    return json.dumps(kept, indent=1, sort_keys=True).splitlines()


class Preemption:
    """`stop` turns True on SIGTERM or SIGINT: the loop then saves and leaves. A second signal ends at once."""

    def __init__(self):
        self.stop = False
        self._old = {}

    def __enter__(self):
        for s in (signal.SIGTERM, signal.SIGINT):
            self._old[s] = signal.signal(s, self._on_signal)
        return self

    def __exit__(self, *_):
        for s, handler in self._old.items():
            signal.signal(s, handler)

    def _on_signal(self, number, frame):
        self.stop = True
        signal.signal(number, self._old[number])
