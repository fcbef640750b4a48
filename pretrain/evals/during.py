"""Evaluators inside a training: checked before its first step, and one that fails costs scores, not weights."""

import math

import jax

from pretrain import build
from pretrain.evals.base import Context, check


class During:
    """A run's `evals`. Everything that they and, as far as it is cheap to know, its `final_evals` need is checked.

    best: `config.checkpoint.best`, the score by which checkpoints are ranked; "" for none.
    """

    def __init__(self, context: Context, best: str = ""):
        run, self._best = context.run, best
        self._held = build.evaluators(run.evals, context)
        check_best(run.checkpoint, self._held)
        for name, (_, evaluator) in self._held.items():
            check(evaluator, context, f"config.evals.{name}")
        for name, (_, evaluator) in build.evaluators(run.final_evals, context, "final_evals").items():
            check(evaluator, context, f"config.final_evals.{name}", whole=False)

    @property
    def splits(self) -> tuple:
        """What splits they read of the run's data."""
        return tuple(s for _, e in self._held.values() for s in getattr(e, "reads", {}).values())

    def due(self, step: int, last: bool) -> list[str]:
        """The names of those that run after a step, the one that ranks checkpoints first."""
        names = [n for n, (every, _) in self._held.items() if last or (every and step % every == 0)]
        return sorted(names, key=lambda n: n != self._best.split("/")[0])

    def ranks(self, name: str) -> bool:
        return name == self._best.split("/")[0]

    def run(self, name: str, params, say) -> dict[str, float]:
        """{"name/key": value}; what it had found, with the reason, if it fails."""
        found = {}
        try:
            for key, value in self._held[name][1].run(params):
                found[f"{name}/{key}"] = float(value)
        except Exception as e:
            if jax.process_count() > 1:
                raise  # the others would wait for this one's part of the computation
            say(f"config.evals.{name} failed, and the run goes on without its scores: {type(e).__name__}: {e}")
        return found

    def rank(self, scores: dict, say) -> float | None:
        """The score that ranks a checkpoint; None where there is none or it is not finite: that is never the best."""
        value = scores.get(self._best)
        if self._best and (value is None or not math.isfinite(value)):
            what = "has no value" if value is None else f"is {value}"
            others = ", ".join(k for k in scores if k != self._best)
            hint = f"; there are {others}" if value is None and others else ""
            say(f"config.checkpoint.best={self._best!r} {what}: this checkpoint cannot be the best{hint}")
            return None
        return value


def check_best(checkpoint, evaluators):
    """`checkpoint.best` is `EVAL/metric`: the evaluator must exist and run whenever a checkpoint is saved."""
    if not checkpoint.best:
        return
    name, _, metric = checkpoint.best.partition("/")
    every = evaluators[name][0] if name in evaluators else None
    if every is None:
        raise ValueError(f"config.checkpoint.best={checkpoint.best!r}: no eval {name!r}; there are {list(evaluators)}")
    if not metric:
        raise ValueError(f"config.checkpoint.best={checkpoint.best!r}: write {name}/METRIC, such as {name}/loss")
    if checkpoint.every and (not every or checkpoint.every % every):
        raise ValueError(
            f"config.checkpoint.every={checkpoint.every}: must be a multiple of config.evals.{name}.every={every}, "
            "else a checkpoint would be ranked by an old score"
        )
