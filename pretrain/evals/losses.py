"""The training objectives on held-out examples, with the same corruption every time."""

import dataclasses
import functools

import jax

from pretrain.evals.base import Task, some
from pretrain.step import evaluate_objectives, example_keys


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Per objective term the mean over a split, and their weighted sum as `loss`.

    Contrastive terms compare examples inside batches of `batch_size`; the incomplete last batch is left out, so that
    every batch has the same chance level.
    """

    split: str = "val"
    batch_size: int = 64
    repeats: int = 2

    @staticmethod
    def default(context) -> dict:
        split = some(context.held_out, 1, "the data have neither a split val nor test")[0]
        return dict(split=split, batch_size=min(64, len(context.facts(split))))

    def check(self):
        if len(self.context.facts(self.split)) < self.batch_size:
            self.fail("batch_size", f"{self.split!r} has {len(self.context.facts(self.split))} examples: lower it")

    def run(self, params):
        context, sums, shares = self.context, {}, {}
        for repeat in range(self.repeats):
            for i, batch in enumerate(context.batches(self.split, self.batch_size)):
                if (batch["row"] < 0).any():
                    continue
                keys = example_keys(repeat, i, self.batch_size)
                _, terms = self._step(params, batch, keys)
                for name, t in jax.device_get(terms).items():
                    total, weight = sums.get(name, (0.0, 0.0))
                    sums[name] = (total + float(t.total), weight + float(t.weight))
        if not sums:
            raise ValueError(f"split {self.split!r} has fewer examples than batch_size={self.batch_size}: lower it")
        means = {name: total / weight for name, (total, weight) in sums.items() if weight}
        for name in means:
            objective, term = name.split("/", 1)
            shares[name] = context.objectives[objective].coef * context.objectives[objective].share(term)
        yield "loss", sum(means[n] * shares[n] for n in means)
        yield from means.items()

    @functools.cached_property
    def _step(self):
        graph, objectives = self.context.graph, self.context.objectives
        return jax.jit(lambda p, b, k: evaluate_objectives(graph, p, objectives, b, k, train=False))
