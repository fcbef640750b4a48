"""Phrase grounding: does what a query finds lie where the phrase says? (arXiv 2104.12763, section 4.1)"""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx

from pretrain.evals.base import Task, Unfit
from pretrain.models.passes import compute
from pretrain.objectives import set_prediction
from pretrain.ops.boxes import corners, overlaps

LEAST = 0.5  # IoU of a box that counts as found


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Of every phrase the boxes of all queries, ranked by the probability of its tokens: `accuracy`, how often the
    first has an IoU of .5 and more with a box of the phrase; `AP@.5`, the average precision over all phrases together.

    objective: the `set_prediction` of the run, whose last layer is evaluated.
    """

    place = 105

    objective: str = ""
    splits: tuple[str, ...] = ("val", "test")
    batch_size: int = 64

    def __post_init__(self):
        known = _known(self.context)
        if (self.objective or next(iter(known), "")) not in known:
            self.fail("objective", f"no set_prediction of the run, which has {', '.join(known) or 'none'}")
        if self.batch_size < 1:
            self.fail("batch_size", "must be at least 1")

    @staticmethod
    def default(context) -> dict:
        if not _known(context):
            raise Unfit("no objective of the run finds boxes (set_prediction)")
        return dict(splits=context.held_out)

    def run(self, params):
        phrases = []
        for batch in self.context.batches(self.splits, self.batch_size):
            phrases += grounded(jax.device_get(self._found(params, batch)))
        yield "accuracy", accuracy(phrases)
        yield "AP@.5", average_precision(phrases)

    @functools.cached_property
    def _found(self):
        known = _known(self.context)
        nodes = known[self.objective or next(iter(known))].found()
        return jax.jit(lambda params, batch: compute(nnx.merge(self.context.graph, params["model"]), nodes, batch))


def _known(context) -> dict:
    return {n: o for n, o in context.objectives.items() if isinstance(o, set_prediction.Objective)}


def grounded(found: dict) -> list:
    """[(scores `[Q]`, IoU `[Q, n]` with the n boxes that it names) of each phrase] of what `Objective.found` gives.

    Boxes of an example that the same tokens name are of one phrase; those that none names are of no phrase.
    """
    p = np.asarray(jax.nn.softmax(found["logits"]))[..., : found["phrases"].shape[1]]
    boxes, out = np.asarray(corners(found["boxes"].x)), []
    for i, t in zip(*np.nonzero(found["valid"])):
        names = found["phrases"][i]  # [L, T]
        same = (names == names[:, t : t + 1]).all(0) & found["valid"][i]
        if names[:, t].any() and not same[:t].any():
            iou, _ = overlaps(boxes[i][:, None], found["where"][i][same][None])
            out.append((p[i] @ names[:, t], np.asarray(iou)))
    return out


def accuracy(phrases) -> float:
    """How often the query of the highest score has found a box of the phrase (Recall@1)."""
    return float(np.mean([iou[scores.argmax()].max() >= LEAST for scores, iou in phrases]))


def average_precision(phrases) -> float:
    """The area under the interpolated curve of precision over recall, all phrases' queries in one order of their scores
    (Everingham et al., The PASCAL VOC Challenge, 2010: from 2010 on). A box is found once, by the query of the highest
    score that lies on it; who finds it again is wrong, as is who lies on none.
    """
    order = sorted(((s, i, q) for i, (scores, _) in enumerate(phrases) for q, s in enumerate(scores)), reverse=True)
    left, hits = [np.ones(iou.shape[1], bool) for _, iou in phrases], []
    for _, i, q in order:
        iou = np.where(left[i], phrases[i][1][q], 0.0)
        hits.append(iou.max() >= LEAST)
        left[i][iou.argmax()] &= not hits[-1]
    hits = np.array(hits)
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    return float(best[hits].sum() / sum(iou.shape[1] for _, iou in phrases))
