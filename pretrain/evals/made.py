"""The numbers of what is generated against what is true: pictures, token ids, words. Each names where it is from.

Pictures are float `[n, H, W, C]` of 0…255, as tokenizers give them; ids `[n, L]`, −1 for none; words a list of texts,
against a list of lists of true ones.
"""

import collections
import contextlib
import io
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_pipeline.structured import decode_detections
from pretrain.evals.metrics import class_iou, confusion

BINARY = 128  # a pixel of a silhouette is inside below it: dark on white


def l1(made, truth) -> float:
    """Mean absolute difference of pictures, in 0…1."""
    return float(np.abs(made - truth).mean() / 255)


def iou(made, truth) -> float:
    """Intersection over union of what is dark, over all pictures: silhouettes, edges."""
    made, truth = (x.mean(-1) < BINARY for x in (made, truth))
    return float((made & truth).sum() / max((made | truth).sum(), 1))


def miou(made, truth) -> float:
    """Mean over the classes that occur of intersection over union, over all label maps (`metrics.class_iou`)."""
    made, truth = np.round(made).astype(int), np.round(truth).astype(int)
    table = confusion(truth, made, max(made.max(initial=0), truth.max(initial=0)) + 1)
    there = table.sum(0) + table.sum(1) > 0
    return float(class_iou(table)[there].mean())


def rmse(made, truth) -> float:
    """Root of the mean squared difference in 0…1, over pixels whose truth is known (not 0)."""
    known = truth > 0
    return float(np.sqrt(np.square((made - truth)[known] / 255).mean()))


def absrel(made, truth) -> float:
    """Mean of |made − true| / true over the pixels of depth that are known (arXiv 1406.2283)."""
    known = truth > 0
    return float((np.abs(made - truth)[known] / truth[known]).mean())


def delta1(made, truth) -> float:
    """How many known pixels of depth are right to a factor of 1.25 (arXiv 1406.2283)."""
    known = truth > 0
    made, truth = np.maximum(made[known], 1e-9), truth[known]
    return float((np.maximum(made / truth, truth / made) < 1.25).mean())


def angle(made, truth) -> float:
    """Mean angle between surface normals in degrees, their components −1…1 written as 0…255 (arXiv
    1411.4734). Where the truth has no direction it does not count."""
    made, truth = (x / 127.5 - 1 for x in (made, truth))
    lengths = [np.linalg.norm(x, axis=-1) for x in (made, truth)]
    known = lengths[1] > 0.5
    cosine = (made * truth).sum(-1)[known] / np.maximum(lengths[0] * lengths[1], 1e-9)[known]
    return float(np.degrees(np.arccos(cosine.clip(-1, 1))).mean())


def f1(made, truth) -> float:
    """Mean over texts of 2 · common / (tokens made + tokens true), tokens as bags (SQuAD, arXiv 1606.05250, 6.1)."""
    scores = []
    for a, b in zip(made, truth):
        a, b = (collections.Counter(x[x >= 0].tolist()) for x in (a, b))
        scores.append(2 * (a & b).total() / max(a.total() + b.total(), 1))
    return float(np.mean(scores))


def exact(made, truth) -> float:
    """The share of texts that are the same token by token."""
    return float((made == truth).all(1).mean())


def cider(made, truth) -> float:
    """CIDEr-D, 0…10 (arXiv 1411.5726), by pycocoevalcap, of words without punctuation; n-gram frequencies
    are those of the true texts given here."""
    from pycocoevalcap.cider.cider import Cider

    words = lambda text: " ".join(re.findall(r"[\w']+", text.casefold()))
    found, _ = Cider().compute_score(
        {i: [words(t) for t in texts] for i, texts in enumerate(truth)}, {i: [words(t)] for i, t in enumerate(made)}
    )
    return float(found)


def ap(made, truth) -> float:
    """COCO's AP of boxes at IoU .50:.95, by pycocotools. Of a text that does not parse, the boxes before that count.

    The network gives no confidence: boxes count in the order written.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    made = [decode_detections(text, whole=False) for text in made]
    truth = [decode_detections(texts[0], whole=False) for texts in truth]
    names = {n: i + 1 for i, n in enumerate(sorted({n for _, classes in (*made, *truth) for n in classes}))}
    if not any(len(boxes) for boxes, _ in made):
        return 0.0

    def rows(found):
        for image, (boxes, classes) in enumerate(found):
            for box, name in zip(boxes * 1000, classes):
                size = np.maximum(box[2:] - box[:2], 0)
                yield dict(image_id=image, category_id=names[name], bbox=[*box[:2], *size], area=float(size.prod()))

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(
            images=[{"id": i} for i in range(len(truth))], categories=[{"id": i} for i in names.values()],
            annotations=[row | {"id": i + 1, "iscrowd": 0} for i, row in enumerate(rows(truth))],
        )  # fmt: skip
        coco.createIndex()
        scored = [row | {"score": 1 / (i + 2)} for i, row in enumerate(rows(made))]
        evaluation = COCOeval(coco, coco.loadRes(scored), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def colours(made, truth) -> float:
    """How far a palette's colours are from the nearest of the other, in 0…1: the mean of both directions (the chamfer
    distance, arXiv 1612.00603). Palettes of any two sizes compare; a text without a colour counts 1.
    """
    return float(np.mean([_palette_distance(a, b[0]) for a, b in zip(made, truth)]))


def _palette_distance(made, truth) -> float:
    made, truth = (_written_colours(text) for text in (made, truth))
    if not len(made) or not len(truth):
        return 1.0
    distance = np.linalg.norm(made[:, None] - truth, axis=-1) / np.linalg.norm([255.0] * 3)
    return float((distance.min(0).mean() + distance.min(1).mean()) / 2)


def _written_colours(text) -> np.ndarray:
    """The whole colours of a palette that a model wrote, however many it announced, `[n, 3]` of 0…255."""
    values = [int(n) for n in re.findall(r"v0=(\d+)", text)]
    return np.asarray(values[: len(values) // 3 * 3], float).reshape(-1, 3).clip(0, 255)


class Metric(NamedTuple):
    """reads: `pictures`, `ids` or `words`; package: what it needs beside the framework, of the extra `coco`."""

    measure: Callable
    reads: str
    package: str = ""


METRICS = {
    **{f.__name__: Metric(f, "pictures") for f in (l1, iou, miou, rmse, absrel, delta1, angle)},
    **{f.__name__: Metric(f, "ids") for f in (f1, exact)},
    "cider": Metric(cider, "words", "pycocoevalcap"),
    "ap": Metric(ap, "words", "pycocotools"),
    "colours": Metric(colours, "words"),
}
# What a modality of this name, before its @SIZE, is measured by; pictures and texts of other names by l1 and f1.
USUAL = {
    "tok_semseg": "miou", "tok_depth": "delta1", "tok_normal": "angle", "det": "ap", "palette": "colours",
    "color_palette": "colours",
}  # fmt: skip
