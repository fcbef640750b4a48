"""The story of a run: start up → build → compile → loop."""

import contextlib
import time

import jax
import numpy as np

from data_pipeline.checks import check_labels
from data_pipeline.pipeline import train_batches
from data_pipeline.plan import describe_data
from pretrain import build, metrics, runtime, sharding, starts
from pretrain.checkpoint import Checkpointer, has_checkpoint, newest_sound, read_info
from pretrain.chips import chip_of
from pretrain.data import check_tokens, read_codes
from pretrain.data_init import data_init
from pretrain.evals.base import Context
from pretrain.evals.during import During
from pretrain.executable import load as load_executable
from pretrain.flops import model_flops
from pretrain.initialize import check_start, start
from pretrain.program import Program
from pretrain.restore import describe_base, read_sources
from pretrain.step import TrainState
from pretrain.storage import read_config


def train(config, workdir, executable: str = "") -> TrainState:
    """Trains the run that the config describes, continuing what the workdir holds of it; returns the final state.

    executable: a file of `tools.plan --save` that takes the place of compiling.
    """
    started = time.perf_counter()
    runtime.check_alike(build.to_json(config))

    # -- Build everything that can fail, before anything is compiled or written --------------------------------------
    run = build.parse(config)
    program = Program(run)
    mesh, objectives = program.mesh, program.objectives
    check_tokens(run)
    rows = sharding.local_rows(mesh, run.batch_size)
    source = build.source(run.data, run.data.train)
    encode = build.encoder(run, train=True)
    iterator = iter(
        train_batches(
            source, encode, batch_size=run.batch_size, seed=run.seed, workers=run.data.workers, rows=rows,
            order=run.data.order,
        )
    )  # fmt: skip
    context = Context(run, program.graphs, objectives)
    evals = During(context, run.checkpoint.best)
    for split in dict.fromkeys((run.data.train, *evals.splits)) if run.labels else ():
        check_labels(run.labels, context.source(split))
    sources, base_info = find_sources(program, workdir)
    codes = {} if run.load or has_checkpoint(workdir) else read_codes(run)
    report = check_start(sources, program.params, program.roles, program.split.stays)
    example = encode(source[0], np.random.default_rng(0))
    lowered = program.lower(example)
    step_fn = load_executable(executable, lowered, list(mesh.devices.flat)) if executable else None
    if has_checkpoint(workdir):
        check_data(config, workdir, source)

    with contextlib.ExitStack() as stack:
        resumed = stack.enter_context(runtime.claim_workdir(workdir, build.to_json(config), build.whole))
        runtime.say(f"{runtime.describe()}, {len(rows)} of {run.batch_size} rows of a batch here\n{program.report}")
        runtime.say(describe_data(source, run.modalities, run.batch_size, run.steps, run.data.transforms))
        stack.enter_context(jax.set_mesh(mesh))
        preemption = stack.enter_context(runtime.Preemption())
        checkpointer = stack.enter_context(
            Checkpointer(
                workdir, every=run.checkpoint.every, last=run.checkpoint.keep, best=bool(run.checkpoint.best),
                info=checkpoint_info(run) | base_info, verify=run.checkpoint.verify,
            )
        )  # fmt: skip

        # -- State: fresh, or where the last run of this workdir stopped ----------------------------------------------
        base, first = (), checkpointer.latest() or 0
        params = None if first or run.load else data_init(program, codes, source, encode)
        if sources:
            started_from = ", ".join(s.said for s in sources)
            params = start(sources, program.place_params() if params is None else params, program.roles)[0]
            sources = None  # nothing else holds those models
        if params is None and not program.base:
            state = program.place(program.fresh)
        else:
            params = program.place_params(params)
            state, base = program.place(program.from_params, params), program.place_base(params)
            del params
        if first:
            state = checkpointer.restore(state, iterator)
            runtime.say(f"resuming {workdir} from step {first} of {run.steps}")
        elif sources is None:
            runtime.say(f"starting from {started_from}: {report}")
        elif resumed:
            runtime.say(f"{workdir} has no complete checkpoint yet: starting from step 0")
        starts.note(workdir, first)

        # -- Compile ----------------------------------------------------------------------------------------------
        batches = (sharding.place_batch(b, rows, run.batch_size, mesh) for b in iterator)
        before = time.perf_counter()
        step_fn = step_fn or lowered.compile()
        runtime.say(runtime.describe_compiled(step_fn, time.perf_counter() - before))

        # -- Loop -------------------------------------------------------------------------------------------------
        writer = metrics.Writer(workdir, run.log, steps=run.steps, start=first, config=build.plain(config))
        stack.callback(writer.close)
        profiler = runtime.Profiler(workdir, run.log.profile)
        stack.callback(profiler.close)
        chip = chip_of(jax.devices()[0].device_kind)
        rate = metrics.Rate(
            run.batch_size, sum(o.tokens_per_example for o in objectives.values()), started=started,
            flops=model_flops(run, example) if chip else 0.0, peak=chip.flops * mesh.size if chip else 0.0,
        )  # fmt: skip
        saved = first
        for done in range(first + 1, run.steps + 1):
            profiler.before(done)
            with rate.spending("data"):
                batch = next(batches)
            state, new = step_fn(state, batch, *base)
            profiler.after(done, state)
            # Metrics of step t are read while step t + 1 runs: the device never waits for the host.
            last = done == run.steps
            writer.read(done, new, rate, flush=done % run.log.every == 0 or last)
            stop_if_diverged(writer.last, run.optim.max_skipped, workdir, saved)
            scores, due = {}, evals.due(done, last)
            # The weights of a finished run are safe before it is evaluated, but for what ranks them.
            before = [name for name in due if evals.ranks(name) or not last]
            for name in before:
                scores |= evaluate(evals, name, done, program.whole(state, base), writer, rate)
            stop = preemption.reached(done)
            if checkpointer.due(done) or last or stop:
                # What is skipped has diverged, or is about to: it takes the place of no checkpoint of before.
                if last or not int(state.opt_state.notfinite_count):
                    with rate.spending("checkpoint"):
                        metric = evals.rank(scores, writer.say) if any(map(evals.ranks, due)) else None
                        checkpointer.save(state, iterator, metric=metric)
                        writer.sync()
                    saved = done
                else:
                    writer.say(f"step {done}: not saved, as it was skipped; what is saved is step {saved}")
            for name in due[len(before) :]:
                evaluate(evals, name, done, program.whole(state, base), writer, rate)
            if stop and not last:
                writer.say(f"stopped by a signal at step {done}; the same command continues from step {saved}")
                break
    return state


def evaluate(evals: During, name: str, step: int, params, writer, rate) -> dict:
    """The scores of one evaluator, written."""
    with rate.spending("eval"):
        found = evals.run(name, params, lambda line: writer.say(f"step {step}: {line}"))
    if found:
        writer.write(step, found)
    return found


def check_data(config, workdir, source):
    """A run goes on with the data that it began with, wherever they lie now: `repr` of a source is of their content.

    Others in the same place are said, others in another place a ValueError.
    """
    sound = newest_sound(workdir)  # what is damaged is set aside when the workdir is ours
    if sound is None:
        return
    then = read_info(workdir, sound).get("source", repr(source))
    if then == repr(source):
        return
    changed = f"{then} then, {source!r} now"
    if runtime.places(read_config(workdir)) != runtime.places(config.to_dict()):
        raise ValueError(
            f"config.data: other data than those of the last checkpoint in {workdir}: {changed}: give the same, which "
            "may lie elsewhere, or take another --workdir (with --config.load its weights go on)"
        )
    runtime.say(
        f"WARNING: the data changed since that checkpoint: {changed}: from here on this is not what an uninterrupted "
        "run would have been"
    )


def find_sources(program: Program, workdir):
    """(what the run starts from, {"base": where that is} of a run that saves only its own part).

    A run that saves everything needs them no more once it has a checkpoint.
    """
    saved, run, parts = has_checkpoint(workdir), program.run, tuple(program.params["model"])
    if not program.base:
        return [] if saved else read_sources(run, parts), {}
    base = read_info(workdir, newest_sound(workdir))["base"] if saved else None
    sources = read_sources(run, parts, base)
    return sources, {"base": base or describe_base(sources)}


def checkpoint_info(run) -> dict:
    """What a checkpoint says of its data: specs and digests, so that nobody has to guess a normalisation later."""
    return {
        "modalities": build.plain((*run.modalities, *run.labels)),
        "text_tokenizers": {name: text.digest for name, text in build.text_tokenizers(run).items()},
        "source": repr(build.source(run.data, run.data.train)),
    }


def stop_if_diverged(last: dict, limit: int, workdir, saved: int):
    """Ends a run in which skipping does not end; saved: the step of its last checkpoint, 0 for none."""
    if last.get("skipped_in_a_row", 0) >= limit:
        init = f", from the weights of step {saved} with --config.load={workdir}" if saved else ""
        raise FloatingPointError(
            f"{limit} steps in a row were not finite (optim.max_skipped={limit}): train in another --workdir with a "
            f"lower optim.lr, or with optim.clip{init}"
        )
