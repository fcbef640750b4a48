"""What the user sees of a run: merged metrics, a progress bar, one line an interval, JSONL, TensorBoard, W&B."""

import contextlib
import json
import sys
import time
from pathlib import Path

import jax
import tqdm


class Rate:
    """Merges the metrics of the steps since the last line: totals and weights add up, then divide."""

    def __init__(self, batch_size: int, tokens_per_example: int):
        self._batch_size, self._tokens, self._warm = batch_size, tokens_per_example, False
        self.empty = []  # terms that had no weight in the interval last closed
        self._reset()

    def _reset(self):
        self._terms, self._losses, self._steps, self._since = {}, [], 0, time.perf_counter()

    @contextlib.contextmanager
    def paused(self):
        """What runs inside is no training: its time does not count."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def add(self, values: dict):
        if self._warm:
            self._steps += 1
        else:  # the time of the very first step is that of its compilation
            self._warm, self._since = True, time.perf_counter()
        if values["skipped_in_a_row"]:
            return  # not finite: it changed nothing, and would hide the mean of the others
        for name, term in values["terms"].items():
            total, weight = self._terms.get(name, (0.0, 0.0))
            self._terms[name] = (total + float(term.total), weight + float(term.weight))
        self._losses.append(float(values["loss"]))

    def close(self) -> dict:
        """Means since the last close: loss, every term, examples and tokens per second. Starts a new interval.

        The rates are left out of an interval that holds nothing but the first step.
        """
        out = {"loss": sum(self._losses) / len(self._losses)} if self._losses else {}
        out |= {name: total / weight for name, (total, weight) in self._terms.items() if weight}
        self.empty = [name for name, (_, weight) in self._terms.items() if not weight]
        if self._steps:
            out["examples/s"] = self._steps * self._batch_size / (time.perf_counter() - self._since)
            if self._tokens:
                out["tokens/s"] = out["examples/s"] * self._tokens
        self._reset()
        return out


class Writer:
    """Writes scalars to JSONL and, as configured, to TensorBoard and W&B; prints a line. Process 0 only."""

    def __init__(self, workdir, log, *, steps: int, start: int, config: dict):
        self._main = jax.process_index() == 0
        self._steps, self._tensorboard, self._wandb = steps, None, None
        self._pending, self._speed, self.last, self._told = None, "", {}, set()
        if not self._main:
            return
        self._jsonl = _continue_jsonl(Path(workdir) / "metrics.jsonl", start)
        if log.tensorboard:
            import tensorboardX

            self._tensorboard = tensorboardX.SummaryWriter(str(Path(workdir) / "tensorboard"))
        if log.wandb:
            try:
                import wandb
            except ImportError as e:
                raise ValueError(f"config.log.wandb={log.wandb!r}: wandb is not installed; `pip install wandb`") from e
            self._wandb = wandb.init(project=log.wandb, dir=str(workdir), config=config, resume="allow")
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
                self.bar.set_postfix_str(f"loss {values['loss']:.3f} · {self._speed}", refresh=False)
                self.bar.update()
        if flush:
            scalars = rate.close() | {k: float(self.last[k]) for k in ("grad_norm", "skipped")}
            unit = "tokens/s" if "tokens/s" in scalars else "examples/s"
            self._speed = f"{_short(scalars[unit])} {unit}" if unit in scalars else ""
            self.write(step, scalars)
            for name in sorted(set(rate.empty) - self._told):
                self._told.add(name)
                self.say(
                    f"{name}: not one example of these steps had what the term needs; if it stays so, check that the "
                    "data hold its modalities in the same examples, or drop the term"
                )

    def write(self, step: int, scalars: dict):
        """Writes scalars to every file and prints them."""
        if not self._main:
            return
        row = {"step": step} | {k: float(v) for k, v in scalars.items()}
        self._jsonl.write(json.dumps(row) + "\n")
        self._jsonl.flush()
        for k, v in scalars.items():
            if self._tensorboard:
                self._tensorboard.add_scalar(k, v, step)
        if self._wandb:
            self._wandb.log(scalars, step=step)
        self.say(f"step {step}/{self._steps} · " + " · ".join(f"{k} {_short(v)}" for k, v in scalars.items()))

    def say(self, line: str):
        if self._main:
            tqdm.tqdm.write(line)
            sys.stdout.flush()

    def close(self):
        if self._main:
            self.bar.close()
            self._jsonl.close()
            if self._tensorboard:
                self._tensorboard.close()
            if self._wandb:
                self._wandb.finish()


def _continue_jsonl(path: Path, start: int):
    """Opens the log for appending, without the rows of steps after `start`: those steps are trained again."""
    rows = path.read_text(encoding="utf8").splitlines() if path.exists() else []
    complete = [row for row in rows if row.endswith("}")]  # a killed run may leave half a line
    kept = [row for row in complete if json.loads(row)["step"] <= start]
    if kept != rows:
        path.write_text("".join(row + "\n" for row in kept), encoding="utf8")
    return open(path, "a", encoding="utf8")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
