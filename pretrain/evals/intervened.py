"""What tasks that intervene in a network share: some examples, and a classifier that reads what is left of them."""

import jax
import numpy as np
from flax import nnx

from pretrain.evals import linear
from pretrain.evals.base import Score, parts
from pretrain.evals.features import represent
from pretrain.evals.knn import labels_of, majority
from pretrain.models.edits import Edited
from pretrain.models.passes import compute


def check_probe(task):
    """ValueError for what `sample` and `Probe` read of a task's keys."""
    if task.examples < 1:
        task.fail("examples", "must be at least 1")
    if not task.decay > 0:
        task.fail("decay", "must be above 0: separable features have no minimum without")


def sample(task, names, *, batch_size: int = 64) -> dict:
    """A batch of those of `task.examples` examples of `task.splits`, drawn by `task.seed`, that have all modalities.

    {modality: …} of the names, and `row`. ValueError if none has them.
    """
    rows = np.asarray(sorted(task.context.facts(task.splits)))
    chosen = np.random.default_rng(task.seed).permutation(rows)[: task.examples]
    found = []
    for batch in task.context.batches(task.splits, batch_size):
        there = [np.asarray(batch[n]["valid"]).reshape(len(batch["row"]), -1).any(1) for n in names]
        keep = np.isin(batch["row"], chosen) & np.all(there, axis=0)
        if keep.any():
            found.append(jax.tree.map(lambda x, k=keep: np.asarray(x)[k], {n: batch[n] for n in ("row", *names)}))
    if not found:
        task.fail("splits", f"no example that was drawn has all of {', '.join(names)}: raise `examples`")
    return jax.tree.map(lambda *x: np.concatenate(x), *found)


def part_of(network, names) -> str:
    """The encoder of what is pooled of modalities that a network reads together; "" where none can be edited."""
    node = network.side_by_side(names) if network.together(names) else None
    return node.part if node and network[node.part].edited and network[node.part].depth else ""


class Probe:
    """A logistic regression on the pooled output of `a+b`, fitted to a task's `train`, reads held-out examples of an
    edited network.

    edit: arrays → {part: edit}. batch: the examples (`sample`); wanted int `[n]`: their labels.
    """

    def __init__(self, task, params, spec: str, edit):
        names, context = tuple(parts(spec)), task.context
        rows, x = represent(context, params, spec, task.train)
        classes, self.known = np.unique(labels_of(task, task.label, rows, task.train), return_inverse=True)
        self.batch, self.classes = sample(task, names), len(classes)
        self.wanted = np.searchsorted(classes, labels_of(task, task.label, self.batch["row"]))
        self.fitted = linear.fit(x[None], self.known, self.classes, task.decay)
        self.params = params

        def pooled(params, batch, *given):
            network = nnx.merge(context.graph, params["model"])
            return compute(Edited(network, edit(*given)), {"x": network.states.together(names)}, batch)["x"]

        self._pooled = jax.jit(pooled)

    def __call__(self, *given) -> np.ndarray:
        """p of every class, `[n, C]`."""
        pooled = np.asarray(self._pooled(self.params, self.batch, *given), np.float32)
        return np.asarray(jax.nn.softmax(self.fitted.logits(pooled[None])))

    def of_wanted(self, p) -> np.ndarray:
        return p[np.arange(len(p)), self.wanted]

    def accuracy(self, p) -> Score:
        return Score((p.argmax(1) == self.wanted).mean(), majority(self.known, self.wanted))

    @property
    def frequency(self) -> np.ndarray:
        """How often each example's label is in `train`, `[n]`."""
        return (np.bincount(self.known, minlength=self.classes) / len(self.known))[self.wanted]
