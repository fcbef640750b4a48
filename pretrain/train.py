"""The story of a run: start up → build → compile → loop."""

import contextlib

import jax
import jax.numpy as jnp

from data_pipeline.pipeline import train_batches
from pretrain import build, metrics, optim, runtime, sharding
from pretrain.checkpoint import Checkpointer, has_checkpoint
from pretrain.evals.base import Context
from pretrain.initialize import check_start, read_origin, start
from pretrain.restore import init_function
from pretrain.step import TrainState, init_state, make_train_step


def train(config, workdir) -> TrainState:
    """Trains the run that the config describes, continuing what the workdir holds of it; returns the final state."""
    # -- Build everything that can fail, before anything is compiled or written --------------------------------------
    run = build.parse(config)
    mesh = sharding.make_mesh(run.mesh)
    build.check_batch(run, mesh)
    build.check_tokens(run)
    objectives = build.objectives(run)
    make_model = build.model(run, objectives)
    graph, init = init_function(make_model, objectives, run.seed)
    shapes = jax.eval_shape(init)
    frozen, loads = build.frozen(run), build.tower_loads(run)
    optimizer = optim.make_optimizer(run.optim, shapes, run.steps, frozen)
    source = build.source(run.data, run.data.train)
    iterator = iter(
        train_batches(
            source, build.encoder(run, train=True), batch_size=run.batch_size, seed=run.seed, workers=run.data.workers,
            shard_index=jax.process_index(), shard_count=jax.process_count(),
        )
    )  # fmt: skip
    evaluators = build.evaluators(run.evals, Context(run, graph, objectives))
    check_best(run.checkpoint, evaluators)
    origin = None if has_checkpoint(workdir) else read_origin(run.init, loads)
    report = check_start(origin, shapes, run.modalities, frozen) if origin else ""
    resumed = runtime.claim_workdir(workdir, build.to_json(config))
    print(runtime.describe(), sharding.report(shapes, mesh), sep="\n", flush=True)

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        preemption = stack.enter_context(runtime.Preemption())
        checkpointer = stack.enter_context(
            Checkpointer(
                workdir, every=run.checkpoint.every, last=run.checkpoint.keep, best=bool(run.checkpoint.best),
                info=checkpoint_info(run),
            )
        )  # fmt: skip

        # -- State: fresh, or where the last run of this workdir stopped ----------------------------------------------
        def fresh():
            return init_state(init(), optimizer, ema=run.ema > 0)

        def from_params(params):  # copies: the step donates them, and must not write into what they were read from
            return init_state(jax.tree.map(jnp.copy, params), optimizer, ema=run.ema > 0)

        layout = sharding.state_sharding(jax.eval_shape(fresh), mesh)
        state = jax.jit(fresh, out_shardings=layout)()
        first = checkpointer.latest() or 0
        if first:
            state = checkpointer.restore(state, iterator)
            print(f"resuming {workdir} from step {first} of {run.steps}", flush=True)
        elif origin:
            params, _ = start(origin, state.params, run.modalities)
            state, origin = jax.jit(from_params, out_shardings=layout)(params), None  # nothing else holds that model
            print(f"starting from {', '.join(filter(None, (run.init, *loads.values())))}: {report}", flush=True)
        elif resumed:
            print(f"{workdir} has no complete checkpoint yet: starting from step 0", flush=True)

        # -- Compile ----------------------------------------------------------------------------------------------
        step_fn = make_train_step(graph, objectives, optimizer, seed=run.seed, accum=run.accum, ema=run.ema)
        placed = sharding.batch_sharding(mesh)
        step_fn = jax.jit(step_fn, donate_argnums=0, in_shardings=(layout, placed), out_shardings=(layout, None))
        batches = (jax.tree.map(lambda x: jax.make_array_from_process_local_data(placed, x), b) for b in iterator)

        # -- Loop -------------------------------------------------------------------------------------------------
        writer = metrics.Writer(workdir, run.log, steps=run.steps, start=first, config=build.plain(config))
        stack.callback(writer.close)
        rate = metrics.Rate(run.batch_size, sum(o.tokens_per_example for o in objectives.values()))
        for done in range(first + 1, run.steps + 1):
            state, new = step_fn(state, next(batches))
            # Metrics of step t are read while step t + 1 runs: the device never waits for the host.
            writer.read(done, new, rate, flush=done % run.log.every == 0 or done == run.steps)
            stop_if_diverged(writer.last, run.optim.max_skipped)
            scores = {}
            for name, (every, evaluator) in evaluators.items():
                if done == run.steps or (every and done % every == 0):
                    params = state.params if state.ema is None else state.ema
                    with rate.paused():
                        found = {f"{name}/{k}": v for k, v in evaluator.run(params)}
                    writer.write(done, found)
                    scores |= found
            if checkpointer.due(done) or done == run.steps or preemption.stop:
                checkpointer.save(state, iterator, metric=scores.get(run.checkpoint.best))
            if preemption.stop and done < run.steps:
                writer.say(f"stopped by a signal at step {done}; the same command continues from there")
                break
    return state


def checkpoint_info(run) -> dict:
    """What a checkpoint says of its data: specs and digests, so that nobody has to guess a normalisation later."""
    return {
        "modalities": build.plain(run.modalities),
        "text_tokenizers": {name: text.digest for name, text in build.text_tokenizers(run).items()},
        "source": repr(build.source(run.data, run.data.train)),
    }


def check_best(checkpoint, evaluators):
    """`checkpoint.best` is `EVAL/metric`: the evaluator must exist and run whenever a checkpoint is saved."""
    if not checkpoint.best:
        return
    name = checkpoint.best.split("/")[0]
    every = evaluators[name][0] if name in evaluators else None
    if every is None:
        raise ValueError(f"config.checkpoint.best={checkpoint.best!r}: no eval {name!r}; there are {list(evaluators)}")
    if not every or checkpoint.every % every:
        raise ValueError(
            f"config.checkpoint.every={checkpoint.every}: must be a multiple of config.evals.{name}.every={every}, "
            "else a checkpoint would be ranked by an old score"
        )


def stop_if_diverged(last: dict, limit: int):
    """Ends a run in which skipping does not end."""
    if last.get("skipped_in_a_row", 0) >= limit:
        raise FloatingPointError(
            f"{limit} steps in a row were not finite: lower optim.lr or set optim.clip (optim.max_skipped={limit})"
        )
