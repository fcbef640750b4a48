"""What the user sees of a run: merged metrics, a progress bar, one line an interval, JSONL, TensorBoard, W&B."""

import contextlib
import json
import secrets
import socket
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from pretrain.storage import Spool, locate, read_rows, write_rows


class Rate:
    """Merges the metrics of the steps since the last line, and tells where the time went.

    flops: of the model, forward and backward, a step; peak: FLOP/s of all devices together; without both there is no
    MFU. started: when the program began (`time.perf_counter`), for goodput.
    """

    def __init__(self, batch_size: int, tokens_per_example: int, *, flops=0.0, peak=0.0, started=None):
        self._batch_size, self._tokens, self._flops, self._peak = batch_size, tokens_per_example, flops, peak
        self._started, self._useful = time.perf_counter() if started is None else started, 0.0
        self.empty = []  # terms that had no weight in the interval last closed
        self.slow = ""  # a host for whose data the others waited
        self._reset()

    def _reset(self):
        self._terms, self._losses, self._steps, self._since = {}, [], 0, time.perf_counter()
        self._spent = {"data": 0.0, "checkpoint": 0.0, "eval": 0.0}

    @contextlib.contextmanager
    def spending(self, on: str):
        """The time of what runs inside goes to `data`, `checkpoint` or `eval`."""
        start = time.perf_counter()
        yield
        self._spent[on] += time.perf_counter() - start

    def add(self, values: dict):
        self._steps += 1
        if values["skipped_in_a_row"]:
            return  # not finite: it changed nothing, and would hide the mean of the others
        for name, term in values["terms"].items():
            total, weight = self._terms.get(name, (0.0, 0.0))
            self._terms[name] = (total + float(term.total), weight + float(term.weight))
        if any(float(term.weight) for term in values["terms"].values()):  # else its 0 is no loss
            self._losses.append(float(values["loss"]))

    def close(self) -> dict:
        """Means since the last close. Starts a new interval.

        loss and every term; examples and tokens per second, evaluation left out; `time/step` in seconds; what share of
        it was waiting for data and for checkpoints; `time/mfu`, the model's FLOP/s over the devices' peak; and
        `time/goodput`, the share of all time since the program began in which it was training.
        """
        out = {"loss": sum(self._losses) / len(self._losses)} if self._losses else {}
        out |= {name: total / weight for name, (total, weight) in self._terms.items() if weight}
        self.empty = [name for name, (_, weight) in self._terms.items() if not weight]
        now = time.perf_counter()
        training = now - self._since - self._spent["eval"]
        if self._steps and training > 0:
            out["examples/s"] = self._steps * self._batch_size / training
            if self._tokens:
                out["tokens/s"] = out["examples/s"] * self._tokens
            shares = {on: self._spent[on] / training for on in ("data", "checkpoint")}
            out |= {"time/step": training / self._steps} | {f"time/{on}": share for on, share in shares.items()}
            if self._flops and self._peak:
                out["time/mfu"] = self._flops * self._steps / training / self._peak
            self._useful += training * (1 - sum(shares.values()))
            out["time/goodput"] = self._useful / (now - self._started)
            self.slow = slow_host(shares["data"])
        self._reset()
        return out


def slow_host(share: float) -> str:
    """Of several processes the one that waits longest for its data, if the others do not: they wait for it."""
    if jax.process_count() == 1:
        return ""
    name = socket.gethostname().encode()[:60].ljust(60)
    mine = np.concatenate([np.float32([share]).view(np.uint8), np.frombuffer(name, np.uint8)])
    rows = np.asarray(multihost_utils.process_allgather(mine))
    shares = rows[:, :4].copy().view(np.float32)[:, 0]
    worst, others = int(shares.argmax()), float(np.median(shares))
    if shares[worst] < 0.1 or shares[worst] < 2 * others:
        return ""
    name = rows[worst, 4:].tobytes().decode().strip()
    return f"process {worst} on {name} waits {shares[worst]:.0%} of the time for its data, half of them {others:.0%}"


class Writer:
    """Writes scalars to JSONL and, as configured, to TensorBoard and W&B; prints a line. Process 0 only.

    What lies in a bucket cannot be appended to: such a run writes into a folder here, and `sync` copies it there.
    """

    def __init__(self, workdir, log, *, steps: int, start: int, config: dict):
        self._main = jax.process_index() == 0
        self._steps, self._tensorboard, self._wandb = steps, None, None
        self._pending, self._speed, self.last, self._told = None, "", {}, set()
        if not self._main:
            return
        self._spool = Spool(workdir)
        folder, before = self._spool.folder, locate(workdir) / "metrics.jsonl"
        if self._spool.remote and before.exists():
            (folder / before.name).write_bytes(before.read_bytes())
        self._jsonl = _continue_jsonl(folder / "metrics.jsonl", start)
        if log.tensorboard:
            import tensorboardX

            # What a run had written of the steps that it repeats is hidden.
            purge = dict(purge_step=start + 1) if start else {}
            # Its files bear the second in which they are begun: of two starts in one the later would overwrite.
            self._tensorboard = tensorboardX.SummaryWriter(
                str(folder / "tensorboard"), filename_suffix=f".{start}", **purge
            )
        if log.wandb:
            try:
                import wandb
            except ImportError as e:
                raise ValueError(f"config.log.wandb={log.wandb!r}: wandb is not installed; `pip install wandb`") from e
            # Its files are on its own server: what lies here may be lost.
            beside = tempfile.gettempdir() if self._spool.remote else str(workdir)
            name = _wandb_id(locate(workdir) / "wandb_id")
            self._wandb = wandb.init(project=log.wandb, dir=beside, config=config, id=name, resume="allow")
        # On a pipe or in a log file a bar is noise: there the lines alone tell the story.
        self.bar = tqdm.tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, disable=None)

    def read(self, step: int, new: dict, rate: Rate, *, flush: bool):
        """Takes the metrics of a step just started, reads those of the step before; `flush` reads both and writes."""
        ready, self._pending = ([self._pending] if self._pending else []), (step, new)
        if flush:
            ready, self._pending = [*ready, self._pending], None
        for at, metrics in ready:
            values = jax.device_get(metrics)
            rate.add(values)
            self.last = values
            if values["skipped_in_a_row"]:
                bad = ", ".join(name for name, ok in values["finite"].items() if not ok)
                self.say(f"step {at}: skipped, not finite: {bad}")
            if self._main:
                if any(float(term.weight) for term in values["terms"].values()):
                    self.bar.set_postfix_str(f"loss {values['loss']:.3f} · {self._speed}", refresh=False)
                self.bar.update()
        if flush:
            scalars = rate.close() | {k: float(self.last[k]) for k in ("grad_norm", "skipped")}
            unit = "tokens/s" if "tokens/s" in scalars else "examples/s"
            self._speed = f"{_short(scalars[unit])} {unit}" if unit in scalars else ""
            self.write(step, scalars)
            for name in rate.empty:
                self._say_once(
                    name,
                    f"{name}: not one example of these steps had what the term needs; if it stays so, check that the "
                    "data hold its modalities in the same examples, or drop the term",
                )
            if rate.slow:
                self._say_once(rate.slow.split(" waits")[0], f"step {step}: {rate.slow}")
            elif scalars.get("time/data", 0) > 0.2:
                self._say_once(
                    "data",
                    f"step {step}: {scalars['time/data']:.0%} of the time waits for data: more data.workers, or "
                    "smaller pictures on disk, would speed it up",
                )

    def _say_once(self, about: str, line: str):
        if about not in self._told:
            self._told.add(about)
            self.say(line)

    def write(self, step: int, scalars: dict):
        """Writes scalars to every file and prints them, except for those of `time/`."""
        if not self._main:
            return
        row = {"step": step} | {k: float(v) for k, v in scalars.items()}
        self._jsonl.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._jsonl.flush()
        for k, v in scalars.items():
            if self._tensorboard:
                self._tensorboard.add_scalar(k, v, step)
        if self._wandb:
            self._wandb.log(scalars, step=step)
        shown = [f"{k} {_short(v)}" for k, v in scalars.items() if not k.startswith("time/")]
        if shown:
            self.say(f"step {step}/{self._steps} · " + " · ".join(shown))

    def say(self, line: str):
        if self._main:
            tqdm.tqdm.write(line)
            sys.stdout.flush()

    def sync(self):
        """Brings the files up to date in a bucket; to be called with every checkpoint, at which a run may go on."""
        if self._main:
            if self._tensorboard:
                self._tensorboard.flush()
            self._spool.upload()

    def close(self):
        if self._main:
            self.bar.close()
            self._jsonl.close()
            if self._tensorboard:
                self._tensorboard.close()
            if self._wandb:
                self._wandb.finish()
            self.sync()


def _wandb_id(file) -> str:
    """The name of the run on W&B, kept in its workdir: so it is one run there however often it is continued."""
    if not file.exists():
        file.write_text(secrets.token_hex(8))
    return file.read_text().strip()


def _continue_jsonl(path: Path, start: int):
    """Opens the log for appending, without the rows of steps after `start`: those steps are trained again."""
    rows, broken = read_rows(path)
    if broken:  # a killed run may leave half a line
        tqdm.tqdm.write(f"{path}: left out {broken} line(s) that are no rows")
    write_rows(path, [row for row in rows if row["step"] <= start])
    return open(path, "a", encoding="utf8")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
