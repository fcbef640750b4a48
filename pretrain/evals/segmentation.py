"""Segmentation by prototypes, without training: which class's texts or example regions is each patch nearest to?

After multi-modal prototypes for open-world segmentation (arXiv 2307.02003).
"""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx

from data_pipeline.image import NO_LABEL
from data_pipeline.spec import Modality
from pretrain.evals.base import Score, Task
from pretrain.evals.features import embed_texts, unit
from pretrain.evals.metrics import class_iou, confusion
from pretrain.evals.zero_shot import check_embedded
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole
from pretrain.tokenizers.kmeans import kmeans

FILLED = 0.5  # what share of a patch has to show a class for the patch to stand for it
KINDS, REDUCE = ("text", "visual", "both"), {"max": np.max, "mean": np.mean}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """IoU of each class and their mean, the ground left out, where a patch is of the class whose prototypes score
    highest: `text`, embeddings of a class's aspects; `visual`, of each example's region of a class the centres of its
    patches' embeddings; `both`, the mean of the two scores. A score is the highest cosine with a prototype of the class
    (`max`), or the mean over them.

    label: the map among the run's labels; 255 has no label. aspects: texts of each of its classes, by number; of the
    ground, where there is one, none: a patch is of it if no class scores above a threshold.
    bank: the split whose first `shots` examples of each class are shown; the next as many choose the threshold, by the
    mIoU. regions: prototypes of an example's region at most, by k-means. Chance is the mIoU of guessing each pixel by
    the frequencies of the classes.
    """

    place = 0

    modality: str
    text: str
    label: str
    aspects: tuple[tuple[str, ...], ...]
    bank: str = "train"
    shots: int = 5
    regions: int = 3
    splits: tuple[str, ...] = ("val", "test")
    batch_size: int = 64

    def __post_init__(self):
        check_embedded(self, "modality", [self.modality])
        check_embedded(self, "text", [self.text], texts=True)
        if not self._spec.grid or self._dense is None:
            remedy = "take pictures on a grid, pooled by their mean or class token"
            self.fail("modality", f"its patches have no embedding in the common space: {remedy}")
        maps = {m.name: m for m in self.context.run.labels if m.pictures and m.shape[2] == 1 and m.vocab_size}
        if self.label not in maps:
            self.fail("label", f"no map of classes among the labels; there are {', '.join(maps) or 'none'}")
        if len(self.aspects) != maps[self.label].vocab_size or sum(not texts for texts in self.aspects) > 1:
            self.fail(
                "aspects", f"give texts of each of the {maps[self.label].vocab_size} classes, of one at most none"
            )
        if any(n % cells for n, cells in zip(maps[self.label].shape, self._spec.grid)):
            self.fail("label", f"its map of {maps[self.label].shape[:2]} is no multiple of {self._spec.grid} patches")
        if min(self.shots, self.regions, self.batch_size) < 1:
            self.fail("shots", f"regions={self.regions}, batch_size={self.batch_size}: must be at least 1")

    @property
    def needs(self) -> tuple:
        run = self.context.run
        return tuple(m for m in (*run.modalities, *run.labels) if m.name in (self.modality, self.text, self.label))

    @property
    def classes(self) -> list[int]:
        """Those that are not the ground."""
        return [c for c, texts in enumerate(self.aspects) if texts]

    def check(self):
        self._chosen()

    def run(self, params):
        found = self._segmented(params)
        frequency = np.stack(list(found.values()))[0].sum(1)  # of each class, as labelled
        share = frequency / frequency.sum()
        chance = np.mean([share[c] / (2 - share[c]) for c in self.classes if share[c]])
        for (kind, reduce), counts in found.items():
            each = class_iou(counts)
            there = [c for c in self.classes if frequency[c]]
            yield f"{kind}/{reduce}/mIoU", Score(each[there].mean(), chance)
            if reduce == "max":
                for c in there:
                    yield f"{kind}/{reduce}/{self.aspects[c][0]}", Score(each[c], share[c] / (2 - share[c]))

    def _segmented(self, params) -> dict:
        """{(kind, reduce): how many pixels of a class (row) are taken for another `[classes, classes]`}."""
        segment, total = self._segmenter(params), {}
        for batch in self.context.batches(self.splits, self.batch_size):
            truth = self._truth(batch)
            for key, guess in segment(batch).items():
                total[key] = total.get(key, 0) + confusion(truth, guess, len(self.aspects))
        return total

    def _segmenter(self, params):
        """batch → {(kind, reduce): classes of pixels `[B, H, W]`}."""
        bank, rest = self._chosen()
        visual = self._regions(self._tokens(params, bank), self._truth(bank))
        given = {"text": self._texts(params), "visual": visual}
        # Of others than the bank's: a patch that is a prototype is nearer to itself than any new one is to anything.
        tokens, truth = self._tokens(params, rest), self._truth(rest)
        shown = {(kind, how): scores(tokens, p, how) for kind, p in given.items() for how in REDUCE}

        def score(tokens, kind, how):
            """Of mean 0 and deviation 1 on these, which brings two kinds to one scale."""
            of = given if kind == "both" else (kind,)
            each = [(scores(tokens, given[k], how) - shown[k, how].mean()) / (shown[k, how].std() + 1e-6) for k in of]
            return np.mean(each, axis=0)

        known = {(k, how): self._threshold(score(tokens, k, how), truth) for k in KINDS for how in REDUCE}

        def segment(batch):
            tokens = self._tokens(params, batch)
            return {key: self._guess(score(tokens, *key), least) for key, least in known.items()}

        return segment

    def _regions(self, tokens, truth) -> list[np.ndarray]:
        """Prototypes `[n, E]` of each class: the centres of the patches that it fills in its first examples."""
        out, filled = [], self._shares(truth) > FILLED
        for c in self.classes:
            centres = []
            for mine in [x[own] for x, own in zip(tokens, filled[..., c]) if own.any()][: self.shots]:
                few = len(mine) <= self.regions
                centres.append(mine if few else np.asarray(kmeans(mine, self.regions)[0]))
            out.append(unit(np.concatenate(centres)))
        return out

    def _threshold(self, score, truth) -> float:
        """Below it lies the ground: what gives the best mIoU; -inf where there is no ground."""
        if len(self.classes) == len(self.aspects):
            return -np.inf
        tries = np.quantile(score.max(-1), np.linspace(0, 1, 33))
        quality = [
            class_iou(confusion(truth, self._guess(score, t), len(self.aspects)))[self.classes].mean() for t in tries
        ]
        return float(tries[int(np.argmax(quality))])

    def _guess(self, score, least: float) -> np.ndarray:
        """Scores `[B, N, classes that are not the ground]` → classes of pixels `[B, H, W]`."""
        best = np.asarray(self.classes)[score.argmax(-1)]
        ground = next((c for c, texts in enumerate(self.aspects) if not texts), -1)
        best = np.where(score.max(-1) < least, ground, best).reshape(-1, *self._spec.grid)
        rows, columns = (n // cells for n, cells in zip(self._map.shape, self._spec.grid))
        return best.repeat(rows, 1).repeat(columns, 2)

    def _shares(self, truth) -> np.ndarray:
        """What share of each patch shows each class, `[B, N, classes]`."""
        (rows, columns), n = self._spec.grid, len(truth)
        cells = (
            truth.reshape(n, rows, truth.shape[1] // rows, columns, -1).swapaxes(2, 3).reshape(n, rows * columns, -1)
        )
        return np.stack([(cells == c).mean(-1) for c in range(len(self.aspects))], -1)

    def _chosen(self) -> tuple[dict, dict]:
        """Batches of the examples whose regions are prototypes, and of as many others. ValueError if a class fills half
        of a patch in none of the former, or there are no others."""
        kept, wanted = ([], []), [dict.fromkeys(self.classes, self.shots) for _ in range(2)]
        for batch in self.context.batches(self.bank, self.batch_size):
            for i, filled in enumerate((self._shares(self._truth(batch)) > FILLED).any(1)):
                for own, left in zip(kept, wanted):
                    if there := [c for c in left if left[c] and filled[c]]:
                        own.append(
                            {k: jax.tree.map(lambda x, i=i: x[i], batch[k]) for k in (self.modality, self.label, "row")}
                        )
                        left |= {c: left[c] - 1 for c in there}
                        break
            if not any(n for left in wanted for n in left.values()):
                break
        if missing := [c for c, left in wanted[0].items() if left == self.shots]:
            name = self.aspects[missing[0]][0]
            self.fail("bank", f"no example fills half a patch with class {missing[0]}, {name!r}: take another split")
        if not kept[1]:
            self.fail("bank", f"shots={self.shots} leave no example to choose by what is ground: take fewer")
        return tuple(jax.tree.map(lambda *x: np.stack(x), *own) for own in kept)

    def _truth(self, batch) -> np.ndarray:
        """Classes of pixels `[B, H, W]`, NO_LABEL where there is none."""
        there = np.asarray(batch[self.label]["valid"]) & (np.asarray(batch["row"]) >= 0)
        return np.where(there[:, None, None], np.asarray(batch[self.label]["pixels"])[..., 0], NO_LABEL)

    def _texts(self, params) -> list[np.ndarray]:
        """Embeddings of the aspects of each class, unit length `[n, E]`."""
        return [unit(embed_texts(self.context, params, self.text, self.aspects[c])) for c in self.classes]

    def _tokens(self, params, batch) -> np.ndarray:
        """Embeddings of patches, unit length `[B, N, E]`."""
        found = jax.device_get(self._embed(params, {self.modality: batch[self.modality]}))
        return np.asarray(found[:, -self._spec.length :], np.float32)

    @functools.cached_property
    def _embed(self):
        nodes = {"z": self._dense}
        return jax.jit(lambda p, batch: compute(nnx.merge(self.context.graph, p["model"]), nodes, batch)["z"])

    @property
    def _dense(self):
        return self.context.network.projected(self.modality, Leaf(Whole((self.modality,), self.context.modalities)))

    @property
    def _spec(self) -> Modality:
        return next(m for m in self.context.modalities if m.name == self.modality)

    @property
    def _map(self) -> Modality:
        return next(m for m in self.context.run.labels if m.name == self.label)

    def figures(self, params, images):
        """Some pictures, their classes, and what each kind of prototype takes them for."""
        from pretrain.evals.pictures import classes, image_rows

        batch = next(iter(self.context.batches(self.splits, 8)))
        batch = jax.tree.map(lambda x: x[batch["row"] >= 0], batch)
        found, n = self._segmenter(params)(batch), len(self.aspects)
        rows = [(self.modality, images.pictures(self.modality, batch[self.modality]))]
        rows += [(self.label, classes(self._truth(batch), n))]
        rows += [(kind, classes(found[kind, "max"], n)) for kind in KINDS]
        yield f"{self.modality} by prototypes", image_rows(rows)


def scores(tokens, prototypes, how: str) -> np.ndarray:
    """tokens `[B, N, E]`, prototypes of each class `[n, E]`, unit length → `[B, N, classes]`."""
    return np.stack([REDUCE[how](tokens @ p.T, axis=-1) for p in prototypes], -1)
