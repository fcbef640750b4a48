"""What an evaluator is, and what it is given: the same object runs cheaply during training and in the harness."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

from data_pipeline.pipeline import eval_batches
from pretrain import build


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """The run that is evaluated: its config, the network's graph and the objectives."""

    run: build.Run
    graph: Any
    objectives: dict

    @property
    def modalities(self):
        return self.run.modalities

    def batches(self, split, batch_size: int):
        """Every example of a split once, in the deterministic form; the last batch padded with row -1."""
        source = build.source(self.run.data, split)
        return eval_batches(source, build.encoder(self.run, train=False), batch_size=batch_size)


class Evaluator(Protocol):
    """A frozen dataclass `Evaluator` in a file of its own; its fields are its config keys, `context` is given."""

    def run(self, params) -> Iterator[tuple[str, float]]:
        """Yields (name, value). params: {"model": …, "objective": …}."""
