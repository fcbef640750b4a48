"""Orbax, in one file: state and data position saved together, asynchronously; the last few and the best are kept."""

import json

import jax
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath
from orbax.checkpoint.experimental.v1.training import preservation_policies as keep
from orbax.checkpoint.experimental.v1.training import save_decision_policies as when

from pretrain.step import TrainState
from pretrain.storage import locate

METRIC = "metric"


class _Position:
    """The data iterator as Orbax saves it: one small JSON that does not depend on hosts or workers."""

    def __init__(self, iterator):
        self.iterator = iterator

    async def save(self, directory):
        text = json.dumps(self.iterator.get_state())

        async def write():
            path = await directory.await_creation()
            if jax.process_index() == 0:
                (path / "position.json").write_text(text)

        return write()

    async def load(self, directory):
        async def read():
            self.iterator.set_state(json.loads((directory / "position.json").read_text()))

        return read()


class Checkpointer:
    """Checkpoints under `workdir/checkpoints/STEP`; a context manager that waits for the last save when it closes."""

    def __init__(self, workdir, *, every: int = 0, last: int = 1, best: bool = False, info: dict | None = None):
        policies = [keep.LatestN(last)]
        if best:  # ascending order keeps the largest: reversed, the lowest wins
            policies.append(
                keep.BestN(get_metric_fn=lambda m: m[METRIC], reverse=True, n=1, keep_checkpoints_without_metrics=False)
            )
        self._orbax = ocp.training.Checkpointer(
            locate(workdir) / "checkpoints",
            save_decision_policy=when.FixedIntervalPolicy(every) if every else None,
            preservation_policy=keep.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )
        self._info = info

    def due(self, step: int) -> bool:
        return self._orbax.should_save(step)

    def save(self, state: TrainState, iterator, *, metric: float | None = None):
        """Returns as soon as the state is copied; writing goes on beside the training."""
        self._orbax.save_checkpointables_async(
            int(state.step),
            {"state": state._asdict(), "data": _Position(iterator)},
            force=True,
            metrics=None if metric is None else {METRIC: metric},
            custom_metadata=self._info,
        )

    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return None if self._orbax.latest is None else self._orbax.latest.step

    def restore(self, like: TrainState, iterator) -> TrainState:
        """The newest state, laid out as `like` (arrays or shapes with shardings); the iterator moves to its place."""
        wanted = {"state": like._asdict(), "data": _Position(iterator)}
        return TrainState(**self._orbax.load_checkpointables(None, wanted)["state"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._orbax.close()


def has_checkpoint(workdir) -> bool:
    """Whether a workdir holds a complete checkpoint; creates nothing."""
    return bool(_complete(workdir))


def steps(workdir) -> list[int]:
    """The steps of a workdir's complete checkpoints, ascending; creates nothing."""
    return list(_complete(workdir))


def _complete(workdir, tries: int = 5) -> dict[int, epath.Path]:
    """{step: folder} of the complete checkpoints, the newest last.

    It only looks. A `Checkpointer` removes what is incomplete: in another program, the checkpoint that a training is
    just writing.
    """
    folder = locate(workdir) / "checkpoints"
    try:
        found = ocp.path.step.standard_name_format().find_all(folder) if folder.exists() else ()
        return {c.step: c.path for c in sorted(found, key=lambda c: c.step)}
    except (FileNotFoundError, NotADirectoryError):
        if not tries:
            raise
        return _complete(workdir, tries - 1)  # a training removed one of them while it was looked at


def read_info(workdir, step: int | None = None) -> dict:
    """What was saved as `info` with a checkpoint."""
    return ocp.metadata(_find(workdir, step), checkpointable_name="state").custom_metadata or {}


def _find(workdir, step: int | None) -> epath.Path:
    found = _complete(workdir)
    if not found:
        raise FileNotFoundError(f"{workdir} holds no checkpoint: train it first with `python -m pretrain`")
    step = max(found) if step is None else step
    if step not in found:
        raise ValueError(f"step={step}: {workdir} has checkpoints {list(found)}")
    return found[step]


def load_params(workdir, step: int | None = None, *, ema: bool = True) -> dict:
    """The parameters of a checkpoint as a plain dict on one device, their moving average if there is one and `ema`.

    Of a run that trains a part of a network (`config.adapt`) that part alone; `restore.restore` gives the whole.
    """
    path = _find(workdir, step)
    saved = ocp.metadata(path, checkpointable_name="state").metadata
    which = "ema" if ema and saved["ema"] is not None else "params"
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved[which])
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # the optimizer's state stays where it is
    with context:
        return ocp.load(path, {which: wanted}, checkpointable_name="state")[which]
