"""Metrics of generated things against writings of their definitions, example by example, and against pycocotools."""

import collections
import contextlib
import io
import math

import numpy as np
import pytest

from data_pipeline.image import palette_text
from data_pipeline.structured import decode_detections, encode_detections
from pretrain.evals import made as metrics

RNG = np.random.default_rng(0)


def pictures(shape=(5, 4, 4, 3)):
    return RNG.uniform(0, 255, shape), RNG.uniform(0, 255, shape)


def test_pictures_and_silhouettes():
    made, truth = pictures()
    pixels = list(zip(made.ravel(), truth.ravel()))
    assert metrics.l1(made, truth) == pytest.approx(sum(abs(a - b) for a, b in pixels) / len(pixels) / 255)
    dark = [(a.mean() < 128, b.mean() < 128) for a, b in zip(made.reshape(-1, 3), truth.reshape(-1, 3))]
    both, either = sum(a and b for a, b in dark), sum(a or b for a, b in dark)
    assert metrics.iou(made, truth) == pytest.approx(both / either)
    assert metrics.l1(made, made) == 0 and metrics.iou(made, made) == 1


def test_label_maps():
    made, truth = (RNG.choice([0, 1, 2, 7], size=(6, 8, 8, 1)).astype(float) for _ in range(2))
    made[made == 2] = 5  # one class only true, one only made
    truth[RNG.random(truth.shape) < 0.2] = 255
    pairs = [(a, b) for a, b in zip(made.ravel(), truth.ravel()) if b != 255]
    wanted = []
    for c in {x for p in pairs for x in p}:
        wanted.append(sum(a == b == c for a, b in pairs) / sum(c in p for p in pairs))
    assert metrics.miou(made, truth) == pytest.approx(np.mean(wanted), abs=1e-12)
    assert metrics.miou(truth * (truth < 255), truth) == 1


def test_depth():
    made, truth = pictures((3, 6, 6, 1))
    made *= truth / 200  # some within a factor of 1.25
    truth[RNG.random(truth.shape) < 0.3] = 0
    known = [(a, b) for a, b in zip(made.ravel(), truth.ravel()) if b > 0]
    ratios = [max(a / b, b / a) for a, b in known]
    assert 0 < metrics.delta1(made, truth) < 1
    assert metrics.delta1(made, truth) == pytest.approx(np.mean([r < 1.25 for r in ratios]))
    assert metrics.absrel(made, truth) == pytest.approx(np.mean([abs(a - b) / b for a, b in known]))
    assert metrics.rmse(made, truth) == pytest.approx(math.sqrt(np.mean([((a - b) / 255) ** 2 for a, b in known])))
    unseen = np.where(truth == 0, 99.0, made)
    for f in (metrics.delta1, metrics.absrel, metrics.rmse):
        assert f(unseen, truth) == f(made, truth), "unknown pixels do not count"


def test_normals():
    made, truth = pictures()
    truth[0, :2] = 127.5  # no direction
    angles = []
    for a, b in zip(made.reshape(-1, 3) / 127.5 - 1, truth.reshape(-1, 3) / 127.5 - 1):
        if np.linalg.norm(b) > 0.5:
            angles.append(math.degrees(math.acos(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))))
    assert len(angles) < 80
    assert metrics.angle(made, truth) == pytest.approx(np.mean(angles), abs=1e-9)
    up, side = np.full((1, 2, 2, 3), 127.5), np.full((1, 2, 2, 3), 127.5)
    up[..., 1], side[..., 0] = 255, 255
    assert metrics.angle(up, side) == pytest.approx(90) and metrics.angle(up, up) == pytest.approx(0)


def test_texts_as_ids():
    made, truth = (np.where(RNG.random((50, 8)) < 0.8, RNG.integers(0, 5, (50, 8)), -1) for _ in range(2))
    wanted = []
    for a, b in zip(made, truth):
        a, b = ([t for t in x.tolist() if t >= 0] for x in (a, b))
        common = sum(min(a.count(t), b.count(t)) for t in set(a))
        precision, recall = common / len(a), common / len(b)
        wanted.append(2 * precision * recall / (precision + recall) if common else 0.0)
    assert metrics.f1(made, truth) == pytest.approx(np.mean(wanted))
    assert metrics.exact(np.concatenate([made, truth]), np.concatenate([truth, truth])) == 0.5


def ngrams(text, n):
    words = text.split()
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def cider_d(made, truth, sigma=6.0):
    """Equations 1–4 of arXiv 1411.5726, with the clipping and the length penalty of its section 5."""
    scores = []
    for hypothesis, references in zip(made, truth):
        total = 0.0
        for n in range(1, 5):
            frequency = collections.Counter(g for refs in truth for g in set().union(*(ngrams(r, n) for r in refs)))
            weigh = lambda text, n=n, f=frequency: {
                g: c * (math.log(len(truth)) - math.log(max(f[g], 1))) for g, c in ngrams(text, n).items()
            }
            h = weigh(hypothesis)
            for reference in references:
                r = weigh(reference)
                norms = [math.sqrt(sum(v * v for v in x.values())) for x in (h, r)]
                product = sum(min(h[g], r.get(g, 0.0)) * r.get(g, 0.0) for g in h)
                # The length that pycocoevalcap compares is that in bigrams.
                gap = ngrams(hypothesis, 2).total() - ngrams(reference, 2).total()
                penalty = math.exp(-(gap**2) / (2 * sigma**2))
                total += penalty * (product / (norms[0] * norms[1]) if all(norms) else 0.0) / len(references)
        scores.append(10 * total / 4)
    return np.mean(scores)


def test_captions():
    pytest.importorskip("pycocoevalcap", reason="pip install 'tokenloom[coco]'")
    words = "a red bus dog cat plays on the mat street".split()
    text = lambda: " ".join(RNG.choice(words, RNG.integers(4, 9)))
    truth = [[text() for _ in range(RNG.integers(1, 4))] for _ in range(12)]
    made = [refs[0] if i % 3 == 0 else text() for i, refs in enumerate(truth)]
    assert metrics.cider(made, truth) == pytest.approx(cider_d(made, truth), abs=1e-9)
    written = [f"{t.upper()}." for t in made]
    assert metrics.cider(written, truth) == metrics.cider(made, truth), "case and punctuation do not count"


def test_boxes_as_pycocotools_counts_them():
    pytest.importorskip("pycocotools", reason="pip install 'tokenloom[coco]'")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def boxes(n):
        corner, size = RNG.uniform(0, 0.6, (n, 2)), RNG.uniform(0.1, 0.4, (n, 2))
        return np.concatenate([corner, corner + size], axis=1)

    names = ("cat", "dog", "traffic light")
    truth, made = [], []
    for _ in range(20):
        true, kinds = boxes(n := int(RNG.integers(1, 5))), RNG.choice(names, n).tolist()
        moved = (true + RNG.normal(0, 0.02, true.shape)).clip(0, 1)
        truth.append(encode_detections(true, kinds))
        made.append(encode_detections(np.concatenate([moved, boxes(1)]), [*kinds, "dog"]))

    # The same in the pixels of pictures of 800 × 800.
    def found(texts):
        for image, text in enumerate(texts):
            for place, (box, name) in enumerate(zip(*decode_detections(text))):
                x, y, right, bottom = box * 800
                row = dict(image_id=image, category_id=names.index(name) + 1, bbox=[x, y, right - x, bottom - y])
                yield row | dict(area=row["bbox"][2] * row["bbox"][3]), place

    with contextlib.redirect_stdout(io.StringIO()):
        coco, scored = COCO(), [row | dict(score=-i) for i, (row, _) in enumerate(found(made))]
        coco.dataset = dict(
            images=[dict(id=i) for i in range(20)], categories=[dict(id=i) for i in (1, 2, 3)],
            annotations=[row | dict(id=i + 1, iscrowd=0) for i, (row, _) in enumerate(found(truth))],
        )  # fmt: skip
        coco.createIndex()
        e = COCOeval(coco, coco.loadRes(scored), "bbox")
        e.evaluate(), e.accumulate(), e.summarize()
    assert 0.2 < e.stats[0] < 0.9
    assert metrics.ap(made, [[t] for t in truth]) == pytest.approx(e.stats[0], abs=1e-6)
    assert metrics.ap(truth, [[t] for t in truth]) == pytest.approx(1)
    broken = [f"{t} v0=3 v1=" for t in made]
    assert metrics.ap(broken, [[t] for t in truth]) == metrics.ap(made, [[t] for t in truth])
    assert metrics.ap(["nothing"] * 20, [[t] for t in truth]) == 0


def test_palettes():
    made, truth = ([RNG.integers(0, 256, (n, 3)) for n in sizes] for sizes in ((5, 3, 5), (5, 5, 2)))
    wanted = []
    for a, b in zip(made, truth):
        gap = lambda x, y: np.linalg.norm(x - y) / np.linalg.norm([255] * 3)
        there, back = ([min(gap(x, y) for y in q) for x in p] for p, q in ((a, b), (b, a)))
        wanted.append((np.mean(there) + np.mean(back)) / 2)
    texts, true = ([palette_text(p) for p in side] for side in (made, truth))
    assert metrics.colours(texts, [[t] for t in true]) == pytest.approx(np.mean(wanted), abs=1e-9)
    assert metrics.colours(["blue"], [[true[0]]]) == 1 and metrics.colours([true[0]], [[true[0]]]) == 0
    cut = " ".join(texts[0].split()[:-2])  # within the last colour
    assert metrics.colours([cut], [[palette_text(made[0][:4])]]) == 0
