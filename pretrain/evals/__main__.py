"""python -m pretrain.evals --workdir=DIR: restores a checkpoint and runs the run's `final_evals` on it.

Every number stands beside the untrained network's. Prints a table and writes DIR/eval.json.
"""

import json
from pathlib import Path

import jax
from absl import app, flags, logging

WORKDIR = flags.DEFINE_string("workdir", None, "A run's workdir.", required=True)
STEP = flags.DEFINE_integer("step", None, "Which checkpoint; the newest if not given.")
OUT = flags.DEFINE_string("out", None, "Where the JSON goes; WORKDIR/eval.json if not given.")


def evaluate(workdir, step=None) -> dict:
    """{name: {"value", "untrained"}} over the final evaluators; untrained is None where they bring a baseline."""
    from pretrain import build
    from pretrain.evals.base import Context
    from pretrain.restore import restore, untrained

    restored = restore(workdir, step)
    if not restored.run.final_evals:
        raise ValueError(f"{workdir}: its config names no final_evals: nothing to evaluate")
    context = Context(restored.run, restored.graph, restored.objectives)
    baseline, table = untrained(restored), {}
    for name, (_, evaluator) in build.evaluators(restored.run.final_evals, context).items():
        print(f"evaluating {name}", flush=True)
        # An untrained network's likelihoods say less than the baseline that the evaluator brings, and cost as much.
        before = {} if hasattr(evaluator, "own_baseline") else dict(evaluator.run(baseline.params))
        for key, value in evaluator.run(restored.params):
            table[f"{name}/{key}"] = {"value": float(value), "untrained": before.get(key)}
    return table


def main(argv):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    from pretrain.storage import locate

    table = evaluate(WORKDIR.value, STEP.value)
    width = max(map(len, table))
    print(f"{'':{width}}  {'value':>8}  {'untrained':>9}   on {jax.devices()[0].device_kind}")
    for name, row in table.items():
        untrained = "" if row["untrained"] is None else f"{row['untrained']:.3f}"
        print(f"{name:{width}}  {row['value']:8.3f}  {untrained:>9}")
    out = Path(OUT.value) if OUT.value else locate(WORKDIR.value) / "eval.json"
    out.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    app.run(main)
