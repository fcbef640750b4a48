"""The training objectives on held-out examples, with the same corruption every time."""

import dataclasses
import functools

import jax

from pretrain import runtime
from pretrain.evals.base import Task, some
from pretrain.schedule import at
from pretrain.step import evaluate_objectives, example_keys


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Per objective term the mean over all examples of a split that have it, and their weighted sum as `loss`.

    A term that no example has what it needs for has no value, and then there is no `loss` either. Contrastive terms
    compare examples inside batches of at most `batch_size`, as even as can be.
    """

    place = 110

    split: str = "val"
    batch_size: int = 64
    repeats: int = 1

    @staticmethod
    def default(context) -> dict:
        split = some(context.held_out, 1, "the data have neither a split val nor test")[0]
        return dict(split=split, batch_size=min(64, len(context.source(split))), repeats=2)

    def __post_init__(self):
        for key in ("batch_size", "repeats"):
            if getattr(self, key) < 1:
                self.fail(key, "must be at least 1")

    def run(self, params):
        sums = {}
        for repeat in range(self.repeats):
            for i, batch in enumerate(self.context.batches(self.split, self.batch_size)):
                _, terms = self._step(params, batch, example_keys(repeat, i, self.batch_size))
                for name, t in jax.device_get(terms).items():
                    total, weight = sums.get(name, (0.0, 0.0))
                    sums[name] = (total + float(t.total), weight + float(t.weight))
        means = {name: total / weight for name, (total, weight) in sums.items() if weight}
        shares = {name: self._share(*name.split("/", 1)) for name in sums}
        lacking = [name for name, share in shares.items() if share and name not in means]
        if lacking:
            runtime.say(
                f"evals.losses: not one example of {self.split!r} has what {', '.join(lacking)} needs: no value, and "
                "no total loss; check that its examples hold the modalities, or drop the term"
            )
        else:
            yield "loss", sum(means[n] * shares[n] for n in means)
        yield from means.items()

    def _share(self, objective: str, term: str) -> float:
        objective = self.context.objectives[objective]
        return at(objective.coef) * objective.loss_weight(term)

    @functools.cached_property
    def _step(self):
        graphs, objectives = self.context.graphs, self.context.objectives
        return jax.jit(lambda p, b, k: evaluate_objectives(graphs, p, objectives, b, k, train=False))
