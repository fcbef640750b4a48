"""A run as a list of stages (`config.phases`): each a run of its own that starts from what the one before it learned.

Every phase has a folder of the workdir, `0_NAME`, `1_NAME`, …, with its config, metrics and checkpoints, and so resumes
bit for bit as any run does. After each, the tasks of every phase are measured: `R[phase][domain]` in `phases.json`.
"""

import json
import math

import jax

from pretrain import build, runtime
from pretrain.checkpoint import steps
from pretrain.evals.base import Context
from pretrain.evals.during import During
from pretrain.evals.harness import score
from pretrain.initialize import Source, start
from pretrain.program import Program
from pretrain.restore import restore
from pretrain.storage import locate, write
from pretrain.train import train

FILE = "phases.json"
MERGED = ("data", "optim", "checkpoint", "log")  # settings, of which a phase may change some; others it replaces


def split(config) -> list[tuple]:
    """[(folder, config)] of the phases of a ConfigDict, in their order.

    A phase is {name, key: value, …}: what differs from the rest of the config. Its draws are its own: `seed` counts up.
    """
    out, listed = [], config.to_dict()["phases"]
    if not isinstance(listed, (list, tuple)) or not all(isinstance(phase, dict) for phase in listed):
        raise ValueError(f"config.phases={listed!r:.80}: list dicts, such as [dict(name='warm', steps=100), …]")
    for i, phase in enumerate(listed):
        where, phase = f"config.phases[{i}]", dict(phase)
        name = phase.pop("name", "")
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{where}.name={name!r}: give it a name of letters, digits and _: it is a folder's")
        if "phases" in phase or (i and "load" in phase):
            key = "phases" if "phases" in phase else "load"
            raise ValueError(f"{where}.{key}: a phase starts from the one before it: leave it out")
        made = type(config)(config.to_dict())
        del made["phases"]
        made.seed = config.get("seed", 0) + i
        if i and "load" in made:
            del made["load"]
        for key, value in phase.items():
            if key in MERGED and not isinstance(value, dict):
                raise ValueError(f"{where}.{key}={value!r}: give a dict of the settings that differ")
            merged = key in MERGED and key in made
            made[key] = (made[key].to_dict() if merged else {}) | dict(value) if key in MERGED else value
        out.append((f"{i}_{name}", made))
    if not out:
        raise ValueError("config.phases=[]: list at least one phase, or leave it out")
    return out


def stages(config) -> list[tuple]:
    """[(folder of the workdir, config)] of what a config trains: its phases; "" and itself where it has none."""
    return split(config) if "phases" in config else [("", config)]


def train_phases(config, workdir) -> bool:
    """Trains the phases one after another, from where an earlier call stopped; whether it came to the end."""
    phases, before = split(config), None
    for folder, c in phases:
        try:
            run = build.parse(c)
            program = Program(run)
            During(Context(run, program.graphs, program.objectives), run.checkpoint.best)
        except (ValueError, TypeError, FileNotFoundError) as e:
            raise type(e)(f"phase {folder}: {e}") from e
    for folder, c in phases:
        here = locate(workdir) / folder
        if before:
            c.load = [dict(workdir=str(before))]
        if max(steps(here), default=0) < build.parse(c).steps:
            runtime.say(f"-- phase {folder}")
            if int(train(c, here).step) < build.parse(c).steps:
                return False
        else:  # it came to its end before: it must have been this one
            with runtime.claim_workdir(here, build.to_json(c), build.whole):
                runtime.say(f"-- phase {folder} is done")
        measure(workdir, phases, folder)
        before = here
    return True


def measure(workdir, phases, folder: str):
    """Adds a row to R: the `final_evals` of every phase that has some, by what this one learned; each once.

    One that fails costs its scores, not the phases to come, and is tried again when the run is started again.
    """
    file, matrix = locate(workdir) / FILE, {}
    if file.exists():
        try:
            matrix = dict(json.loads(file.read_text()))
        except (ValueError, TypeError) as e:
            runtime.say(f"{file} is broken ({e}): its scores are measured again")
    row = matrix.get(folder, {})
    domains = [(name, build.parse(c)) for name, c in phases if c.get("final_evals") and name not in row]
    if not domains:
        return
    held = restore(locate(workdir) / folder)
    for name, run in domains:
        program = Program(run)
        context = Context(run, program.graphs, program.objectives)
        tasks = {k: e for k, (_, e) in build.evaluators(run.final_evals, context, "final_evals").items()}
        # As a run of that phase would load it: what it has of its own, such as another head, is fresh.
        everything = {name: name for name in ("model", "objective", "models")}
        params, _ = start([Source(folder, held, everything)], program.init(), program.roles)
        try:
            row[name] = {key: float(value) for key, value in score(tasks, params).items()}
        except Exception as e:
            if jax.process_count() > 1:
                raise  # the others would wait for this one's part of the computation
            runtime.say(f"after {folder}, {name}: no scores: {type(e).__name__}: {e}")
            continue
        shown = ", ".join(f"{key} {value:.3g}" for key, value in row[name].items() if math.isfinite(value))
        runtime.say(f"after {folder}, {name}: {shown}")
    if jax.process_index() == 0:
        write(file, json.dumps(matrix | {folder: row}, indent=1) + "\n")
