"""python -m pretrain.evals --checkpoint=DIR[,DIR…] [--tasks=all]: runs transfer tasks on frozen checkpoints.

DIR is a workdir of `python -m pretrain` or `tools.convert`; several are laid side by side. Without --tasks it runs the
config's `final_evals`. Every number stands beside chance and the untrained network's. Prints a table and writes
eval.json and the page eval.html, with pictures. --watch scores every new checkpoint of a running training instead.
"""

import json

import jax
from absl import app, flags, logging

from pretrain.storage import locate, write

flags.DEFINE_list("checkpoint", None, "Workdirs.", required=True)
flags.DEFINE_list("tasks", [], "Tasks, or all; the config's final_evals if not given.")
flags.DEFINE_integer("step", None, "Which checkpoint; the newest if not given.")
flags.DEFINE_string("out", None, "A folder for eval.json and eval.html; the (first) workdir if not given.")
flags.DEFINE_bool("watch", False, "Score every new checkpoint of one workdir into its evals.jsonl until the last.")
flags.DEFINE_float("poll", 30.0, "With --watch: seconds between looks.", lower_bound=0.0)
flags.DEFINE_string("source", None, "Read the tasks' data from this file of data_pipeline/sources instead.")
flags.DEFINE_string("path", None, "Read the tasks' data from this folder instead.")
flags.DEFINE_list("fields", [], "MODALITY=FIELD,…: what the modalities are made from in those data.")


def run(workdirs, names=(), *, step=None, out=None, data=None) -> dict:
    """Evaluates workdirs; returns and writes what eval.json holds."""
    from pretrain.evals import harness, page

    # All of it is opened and checked before any of it is computed.
    opened = [harness.open_run(workdir, step, data) for workdir in workdirs]
    planned = [harness.make_tasks(context, names) for _, context in opened]
    held, results = [], []
    for workdir, (restored, context), (tasks, left_out) in zip(workdirs, opened, planned):
        for name, reason in left_out.items():
            print(f"{workdir}: without {name}: {reason}")
        held.append(page.begin(restored, context, tasks))
    for workdir, (restored, _), (tasks, left_out) in zip(workdirs, opened, planned):
        say = lambda name, workdir=workdir: print(f"evaluating {workdir}: {name}", flush=True)
        scores = harness.evaluate(restored, tasks, say)
        results.append({"workdir": str(workdir), "step": restored.step, "scores": scores, "left_out": left_out})
    found = {"device": jax.devices()[0].device_kind, "checkpoints": results}
    folder = locate(out or workdirs[0])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "eval.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    write(folder / "eval.html", page.render(found, held))
    return found | {"folder": folder}


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    f = flags.FLAGS
    if not f["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    pairs = [pair.partition("=") for pair in f.fields]
    if not all(name and field for name, _, field in pairs):
        raise app.UsageError(f"--fields={','.join(f.fields)}: write MODALITY=FIELD,MODALITY=FIELD")
    data = {k: v for k, v in (("source", f.source), ("path", f.path)) if v is not None}
    data |= {"fields": {name: field for name, _, field in pairs}} if pairs else {}
    if f.watch:
        from pretrain.evals.watch import watch

        if len(f.checkpoint) > 1:
            raise app.UsageError("--watch follows one workdir: start one program for each")
        watch(f.checkpoint[0], f.tasks, poll=f.poll, data=data)
        return
    from pretrain.evals.page import as_text

    found = run(f.checkpoint, f.tasks, step=f.step, out=f.out, data=data)
    print(as_text(found))
    print(f"wrote {found['folder'] / 'eval.json'} and eval.html")


if __name__ == "__main__":
    app.run(main)
