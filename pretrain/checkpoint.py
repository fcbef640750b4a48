"""Orbax, in one file: state and data position saved together, asynchronously; the last few and the best are kept.

Every checkpoint holds the sha256 of its files, written before it gets its name, and is compared with them before it is
used: a damaged one is set aside by the run that it belongs to, and refused by everything else.
"""

import contextlib
import json
import pkgutil
import re

import jax
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath
from orbax.checkpoint.experimental.v1.training import preservation_policies as keep

from pretrain import digests
from pretrain.runtime import on_first, say
from pretrain.step import AVERAGE, TrainState
from pretrain.storage import locate, read_config, write

METRIC = "metric"
PART = 2**26  # bytes of a file at most, unless an array is larger: several are hashed at once
ABOUT, INFO = "_CHECKPOINT_METADATA", "info.json"  # Orbax still writes into its own while digests are taken


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
    """Checkpoints under `workdir/checkpoints/STEP`; a context manager that waits for the last save when it closes.

    every: steps between two that are `due`, 0 for none. verify: whether sha256 are written, and compared here.

    ValueError if every checkpoint of the workdir is damaged; a damaged one beside a sound one is renamed and told.
    """

    def __init__(
        self, workdir, *, every: int = 0, last: int = 1, best: bool = False, info: dict | None = None, verify=True
    ):
        policies = [keep.LatestN(last)]
        if best:  # ascending order keeps the largest: reversed, the lowest wins
            policies.append(
                keep.BestN(get_metric_fn=lambda m: m[METRIC], reverse=True, n=1, keep_checkpoints_without_metrics=False)
            )
        self._folder, self._every, self._info, self._verify = locate(workdir) / "checkpoints", every, info, verify
        self._saving, self._step = None, 0
        if verify:
            on_first(lambda: _set_aside_damaged(workdir))
        context = ocp.Context()
        context.array.saving.ocdbt_target_data_file_size = PART
        # It runs on process 0 when all have written, before the folder gets its name. Orbax copies a method's object.
        context.async_options.post_finalization_callback = lambda: self._write_digests()
        with _reading(self._folder):
            self._orbax = ocp.training.Checkpointer(
                self._folder,
                context=context,
                preservation_policy=keep.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
            )

    def due(self, step: int) -> bool:
        return bool(self._every) and step % self._every == 0

    def save(self, state: TrainState, iterator, *, metric: float | None = None):
        """Returns as soon as the state is copied; writing goes on beside the training.

        OSError if the save before this one failed, or the workdir is gone.
        """
        self._finish()
        if not self._folder.exists():
            raise FileNotFoundError(
                f"{self._folder} is gone since this run began: was the workdir moved or deleted? Nothing more was "
                "written; bring it back, and the same command goes on from its newest checkpoint"
            )
        self._step = int(state.step)
        self._saving = self._orbax.save_checkpointables_async(
            self._step,
            {"state": state._asdict(), "data": _Position(iterator)},
            force=True,
            metrics=None if metric is None else {METRIC: metric},
            custom_metadata=self._info,
        )

    def _finish(self):
        """Waits for the save under way. Orbax closes the event loop of a save, three descriptors, when it is asked."""
        saving, self._saving = self._saving, None
        if not saving:
            return
        try:
            saving.result()
        except Exception as e:
            raise OSError(
                f"{self._folder / str(self._step)}: this checkpoint could not be written ({_first_line(e)}): is the "
                "disk full, or the workdir gone? The same command goes on from the newest one that is whole"
            ) from e

    def _write_digests(self):
        # A disk's folder is renamed when it is whole, a bucket's bears its name from the start.
        (folder,) = (f for f in self._folder.iterdir() if f.name.split(".orbax-checkpoint-tmp")[0] == str(self._step))
        write(folder / INFO, json.dumps(self._info or {}, sort_keys=True))
        digests.write(folder, skip=(ABOUT,), empty=not self._verify)

    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return None if self._orbax.latest is None else self._orbax.latest.step

    def restore(self, like: TrainState, iterator) -> TrainState:
        """The newest state, laid out as `like` (arrays or shapes with shardings); the iterator moves to its place."""
        wanted = {"state": like._asdict(), "data": _Position(iterator)}
        with _reading(self._folder / str(self.latest())):
            return TrainState(**self._orbax.load_checkpointables(None, wanted)["state"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._finish()
        finally:
            with contextlib.suppress(Exception):  # it says again what became of a save
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
        # Not Orbax's own: it reads what may be damaged.
        found = [f for f in folder.iterdir() if re.fullmatch(r"0|[1-9]\d*", f.name)] if folder.exists() else ()
        if str(folder).startswith("gs://"):  # there a folder has its name from the start
            found = [f for f in found if (f / "commit_success.txt").exists()]
        return {int(f.name): f for f in sorted(found, key=lambda f: int(f.name)) if f.is_dir()}
    except (FileNotFoundError, NotADirectoryError):
        if not tries:
            raise
        return _complete(workdir, tries - 1)  # a training removed one of them while it was looked at


def damage(folder: epath.Path) -> str:
    """What is wrong with a checkpoint, "" if nothing is or it was written without sha256."""
    found = digests.check(folder)
    if found or not digests.read(folder):
        return found[0] + (f" (and {len(found) - 1} more)" if found[1:] else "") if found else ""
    try:
        for handler in json.loads((folder / ABOUT).read_text())["item_handlers"].values():
            pkgutil.resolve_name(handler)
        theirs = ocp.metadata(folder, checkpointable_name="state").custom_metadata or {}
    except Exception as e:
        return f"{folder / ABOUT} cannot be read ({_first_line(e)})"
    ours = json.loads((folder / INFO).read_text())
    return "" if ours == theirs else f"{folder / ABOUT} differs from {INFO} beside it"


def newest_sound(workdir) -> int | None:
    """The step from which a run is continued: that of the newest checkpoint that is not damaged, if there is one."""
    return next((step for step, path in reversed(_complete(workdir).items()) if not damage(path)), None)


def _set_aside_damaged(workdir):
    held = _complete(workdir)
    found = {step: problem for step, path in held.items() if (problem := damage(path))}
    if found and len(found) == len(held):
        raise ValueError(
            f"{workdir}: no checkpoint is sound: {'; '.join(found.values())}: bring one back from a copy, train into a "
            "new workdir, or take them as they are with --config.checkpoint.verify=False"
        )
    for step, problem in found.items():
        names = (f"{step}.damaged{n or ''}" for n in range(1000))
        aside = next(path for name in names if not (path := held[step].parent / name).exists())
        held[step].rename(aside)
        say(
            f"WARNING: the checkpoint of step {step} is damaged and set aside as {aside.name}, to be deleted once it "
            f"is of no use: {problem}"
        )


@contextlib.contextmanager
def _reading(path):
    """One sentence for whatever Orbax and TensorStore say of a folder."""
    try:
        yield
    except Exception as e:
        raise ValueError(
            f"{path} cannot be read as a checkpoint of this network ({_first_line(e)}): was the config or the code "
            "changed since, or is it damaged?"
        ) from e


def _first_line(e: Exception) -> str:
    return f"{type(e).__name__}: {str(e).strip():.300}".split("\n")[0]


def read_info(workdir, step: int | None = None) -> dict:
    """What was saved as `info` with a checkpoint."""
    path = _find(workdir, step)
    with _reading(path):
        return ocp.metadata(path, checkpointable_name="state").custom_metadata or {}


def _find(workdir, step: int | None) -> epath.Path:
    """A checkpoint that is as it was written. ValueError that names what is not, and the remedy."""
    found = _complete(workdir)
    if not found:
        raise FileNotFoundError(f"{workdir} holds no checkpoint: train it first with `python -m pretrain`")
    step = max(found) if step is None else step
    if step not in found:
        raise ValueError(f"step={step}: {workdir} has checkpoints {list(found)}")
    if read_config(workdir).get("checkpoint", {}).get("verify", True) and (problem := damage(found[step])):
        others = ", ".join(str(s) for s in found if s != step)
        raise ValueError(
            f"{problem}: the checkpoint of step {step} is damaged, or was just removed by its training: bring it back "
            f"from a copy, or move its folder away to use another (there {f'is {others}' if others else 'is none'})"
        )
    return found[step]


def load_params(workdir, step: int | None = None, *, ema: bool = True) -> dict:
    """The parameters of a checkpoint as a plain dict on one device, their moving average if there is one and `ema`.

    Of a run that trains a part of a network (`config.train`) that part alone; `restore.restore` gives the whole.
    """
    path = _find(workdir, step)
    with _reading(path):
        saved = ocp.metadata(path, checkpointable_name="state").metadata
        averaged = ema and AVERAGE in (saved["references"] or {})
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        found = saved["references"][AVERAGE] if averaged else saved["params"]
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), found)
        context = ocp.Context()
        context.pytree.loading.partial_load = True  # the optimizer's state stays where it is
        with context:
            if averaged:
                wanted = {"references": {AVERAGE: wanted}}
                return ocp.load(path, wanted, checkpointable_name="state")["references"][AVERAGE]
            return ocp.load(path, {"params": wanted}, checkpointable_name="state")["params"]
