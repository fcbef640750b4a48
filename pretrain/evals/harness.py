"""Runs tasks on a checkpoint and on the same network untrained: what the program and `--watch` share."""

import dataclasses
import functools

from data_pipeline.discover import holders, load
from pretrain import build
from pretrain.data import check_tokens
from pretrain.evals.base import Context, Unfit, check
from pretrain.finite import check_finite
from pretrain.restore import Restored, init_function, restore, untrained


@functools.cache
def known_tasks() -> tuple[str, ...]:
    """The files of this folder whose `Evaluator` has a place on the page, in that order."""
    places = {name: evaluator.place for name, evaluator in holders("pretrain.evals", "Evaluator").items()}
    return tuple(sorted((name for name, place in places.items() if place), key=lambda name: (places[name], name)))


def open_run(workdir, step=None, data: dict | None = None) -> tuple[Restored, Context]:
    """A checkpoint, and what its tasks are given. data: keys that replace the run's own, see `redirect`."""
    restored = restore(workdir, step)
    context = open_context(workdir, restored.run, data)
    return dataclasses.replace(restored, run=context.run), context


def open_context(workdir, run: build.Run, data: dict | None = None) -> Context:
    """What the tasks of a workdir's run are given, which no checkpoint is needed for."""
    run = redirect(run, data or {})
    if not build.states(run).pooled_modalities:
        raise ValueError(f"{workdir} trained {build.model_file(run)!r}, which embeds nothing to evaluate")
    try:
        check_tokens(run)
    except (ValueError, FileNotFoundError) as e:
        e.add_note("--source, --path and --fields give the tasks other data, such as a converted model needs")
        raise
    objectives = build.objectives(run)
    return Context(run, init_function(build.models(run, objectives), objectives, run.seed)[0], objectives)


def redirect(run: build.Run, data: dict) -> build.Run:
    """The same network on other data: `source` and `path` replace config.data's, `fields` {modality: field}."""
    fields = data.get("fields", {})
    known = [m.name for m in run.modalities]
    for name in fields:
        if name not in known:
            raise ValueError(f"--fields: no modality {name!r}; the run has {', '.join(known)}")
    modalities = tuple(dataclasses.replace(m, field=fields.get(m.name, m.field)) for m in run.modalities)
    changed = {k: data[k] for k in ("source", "path") if k in data}
    if "source" in changed:
        changed = {"path": "", "options": {}, "sources": ()} | changed
    return dataclasses.replace(run, modalities=modalities, data=dataclasses.replace(run.data, **changed))


def make_tasks(context: Context, names=()) -> tuple[dict, dict]:
    """({name: Evaluator}, {name: why it does not fit}), all checked against the data: nothing fails later.

    names: tasks, or `all`; () for the run's `final_evals`. Their keys are those of `final_evals` where it has the task,
    else what the task takes by default of the run's modalities.
    """
    own, specs, left_out, known = context.run.final_evals, {}, {}, known_tasks()
    if not names:
        if not own:
            raise ValueError("the run's config names no final_evals: give --tasks=all, or some of " + ", ".join(known))
        specs = own
    for name in known if "all" in names else names:
        if name not in known:
            raise ValueError(f"--tasks={','.join(names)}: no task {name!r}; there are all, {', '.join(known)}")
        mine = {n: values for n, values in own.items() if values.get("evaluator", n) == name}
        try:
            specs |= mine or {name: _default(context, name)}
        except Unfit as reason:
            if "all" not in names:
                raise ValueError(f"--tasks={','.join(names)}: {name}: {reason}") from reason
            left_out[name] = str(reason)
    places = {name: i for i, name in enumerate(known)}  # behind these, what only a config names
    specs = dict(sorted(specs.items(), key=lambda item: places.get(item[1].get("evaluator", item[0]), len(places))))
    made = {name: evaluator for name, (_, evaluator) in build.evaluators(specs, context, "final_evals").items()}
    for name, evaluator in made.items():
        check(evaluator, context, f"config.final_evals.{name}")
    return made, left_out


def _default(context, name) -> dict:
    return load("pretrain.evals", name, "--tasks", "Evaluator").Evaluator.default(context)


def score(tasks: dict, params, say=None) -> dict:
    """{"task/name": value}: a value may be a `Score`."""
    check_finite(params, "the network")
    found = {}
    for name, evaluator in tasks.items():
        if say:
            say(name)
        found |= {f"{name}/{key}": value for key, value in evaluator.run(params)}
    return found


def evaluate(restored: Restored, tasks: dict, say=None) -> dict:
    """{name: {"value", "chance", "raw", "untrained"}}, see `Score`; None where there is no such number."""
    values = score(tasks, restored.params, say)
    # An untrained network's likelihoods say less than the baseline that the evaluator brings, and cost as much.
    compared = {name: e for name, e in tasks.items() if not e.own_baseline}
    before = score(compared, untrained(restored).params, lambda name: say(f"{name}, untrained") if say else None)
    return {
        name: {
            "value": float(value),
            "chance": getattr(value, "chance", None),
            "raw": getattr(value, "raw", None),
            "untrained": float(before[name]) if name in before else None,
        }
        for name, value in values.items()
    }
