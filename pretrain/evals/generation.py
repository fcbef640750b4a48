"""What the network makes of held-out examples, against what they are: pictures, silhouettes and texts."""

import dataclasses
import functools

import jax
import numpy as np

from data_pipeline.text import TextTokenizer
from pretrain.evals.base import Score, Task, Unfit, parts
from pretrain.evals.knn import held_out
from pretrain.evals.pictures import Images, image_rows
from pretrain.generate.chain import Generator, Target

BINARY = 128  # a pixel of a silhouette is inside below it: dark on white


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """For each (inputs, target, metric): the target made of the inputs, `a` or several `a+b`, at 4M's out-of-the-box
    use (arXiv 2406.09406, section 4.1). Chance is what the thing made of another example scores.

    metric: of pictures `l1`, the mean absolute difference in 0…1, lower is better, and `iou`, the intersection over
    union of dark pixels (silhouettes, edges), summed over examples; of texts `f1`, that of their tokens as bags (SQuAD,
    arXiv 1606.05250, section 6.1), and `exact`. A picture is compared with the target's own tokens, decoded: what the
    tokenizer loses counts for neither.
    steps, temperature, guidance: of `generate.chain.Target`; texts are greedy. samples: pictures are the mean of so
    many draws, as 4M-21's depth and normals are. examples: at most so many of the splits, evenly spread.
    """

    pairs: tuple[tuple[str, str, str], ...]
    splits: tuple[str, ...] = ("val", "test")
    examples: int = 64
    steps: int = 12
    temperature: float = 0.4
    guidance: float = 1.0
    samples: int = 1

    def __post_init__(self):
        specs = {m.name: m for m in self.context.modalities}
        self.check_names("pairs", [inputs for inputs, _, _ in self.pairs])
        if min(self.examples, self.steps, self.samples) < 1:
            self.fail("samples", "examples, steps and samples must be at least 1")
        for inputs, target, metric in self.pairs:
            if target not in specs or not specs[target].targets or specs[target].kind not in ("grid", "sequence"):
                self.fail("pairs", f"{target!r} is no grid or sequence that the network predicts")
            if target in parts(inputs):
                self.fail("pairs", f"{target!r} would be given and asked for")
            allowed = ("l1", "iou") if specs[target].kind == "grid" else ("f1", "exact")
            if metric not in allowed:
                self.fail("pairs", f"the metric of {target!r} must be one of {', '.join(allowed)}")

    @staticmethod
    def default(context) -> dict:
        if context.run.model.get("model", "models.encdec") != "models.encdec":
            raise Unfit("only encoder-decoders generate")
        images = Images(context)
        try:
            images.tokenizers  # noqa: B018 (opens them)
        except (FileNotFoundError, ValueError) as reason:
            raise Unfit(str(reason)) from reason
        texts = [m for m in context.modalities if m.kind == "sequence"]
        pictures = [m for m in context.modalities if m.kind == "grid" and images.has(m.name)]
        pairs = []
        for given in (next((m.name for m in kind if m.inputs), None) for kind in (pictures, texts)):
            for kind, metric in ((pictures, "l1"), (texts, "f1")):
                target = next((m.name for m in kind if m.targets and m.name != given), None)
                if given and target:
                    pairs.append((given, target, metric))
        if not pairs:
            raise Unfit("needs two modalities among grids and texts, one of them a target")
        return dict(pairs=pairs, splits=held_out(context))

    def check(self):
        for _, target, metric in self.pairs:
            if metric in ("l1", "iou") and not self._images.has(target):
                self.fail("pairs", f"no tokenizer decodes {target!r}; leave this pair out")

    def run(self, params):
        for inputs, target, metric in self.pairs:
            batch = self._batch(inputs, target)
            made, truth = self._made(params, batch, inputs, target), self._view(target, batch[target])
            measure = METRICS[metric]
            yield f"{inputs}→{target}/{metric}", Score(measure(made, truth), measure(made, np.roll(truth, 1, axis=0)))

    def figures(self, params, images):
        """Given, made and true of some examples, for each pair of pictures."""
        for inputs, target, metric in self.pairs:
            if metric not in ("l1", "iou"):
                continue
            batch = jax.tree.map(lambda x: x[:10], self._batch(inputs, target))
            rows = [(n, images.pictures(n, batch[n])) for n in parts(inputs) if images.has(n)]
            made = self._made(params, batch, inputs, target).astype(np.uint8)
            yield (
                f"{inputs} → {target}",
                image_rows([*rows, ("made", made), ("true", images.decode(target, batch[target]["ids"]))]),
            )

    def _made(self, params, batch, inputs: str, target: str):
        generator = Generator(self.context.graph, params["model"], self.context.modalities)
        text = self._kind(target) == "sequence"
        how = Target(
            target, steps=self.steps, temperature=0.0 if text else self.temperature, guidance=self.guidance
        )  # fmt: skip
        draws = range(1 if text else self.samples)
        views = [self._view(target, generator(batch, parts(inputs), [how], sample=s)[target]) for s in draws]
        return views[0] if text else np.mean(views, axis=0)

    def _view(self, name: str, made) -> np.ndarray:
        """A picture as numbers `[n, H, W, C]`, a text as its ids `[n, L]` without [EOS], −1 where there is none."""
        ids, valid = jax.device_get((made["ids"], made["valid"]))
        if self._kind(name) == "grid":
            return self._images.decode(name, ids).astype(np.float32)
        return np.where(valid & (ids != TextTokenizer.eos_id), ids.astype(np.int64), -1)

    def _kind(self, name) -> str:
        return next(m.kind for m in self.context.modalities if m.name == name)

    @functools.cached_property
    def _images(self) -> Images:
        return Images(self.context)

    def _batch(self, inputs: str, target: str) -> dict:
        """The examples that have all of them. ValueError if there are fewer than two."""
        parts_of = [*parts(inputs), target]
        batch = self._examples
        keep = np.all([batch[n]["valid"].reshape(len(batch["row"]), -1).any(1) for n in parts_of], axis=0)
        at = np.flatnonzero(keep & (batch["row"] >= 0))
        if len(at) < 2:
            raise ValueError(f"generation.pairs: fewer than two examples of {self.splits} have {', '.join(parts_of)}")
        at = at[np.linspace(0, len(at) - 1, min(self.examples, len(at))).round().astype(int)]
        return jax.tree.map(lambda x: x[at], {"row": batch["row"], **{n: batch[n] for n in parts_of}})

    @functools.cached_property
    def _examples(self) -> dict:
        names = {n for inputs, target, _ in self.pairs for n in (*parts(inputs), target)}
        batches = [{n: b[n] for n in ("row", *names)} for b in self.context.batches(self.splits, 64)]
        return jax.tree.map(lambda *x: np.concatenate(x), *batches)


def l1(made, truth) -> float:
    """Mean absolute difference of pictures `[n, H, W, C]` of 0…255, in 0…1."""
    return float(np.abs(made - truth).mean() / 255)


def iou(made, truth) -> float:
    """Intersection over union of what is dark in pictures `[n, H, W, C]` of 0…255, over all of them."""
    made, truth = (x.mean(-1) < BINARY for x in (made, truth))
    return float((made & truth).sum() / max((made | truth).sum(), 1))


def f1(made, truth) -> float:
    """Mean over texts `[n, L]` (ids, −1 for none) of 2 · common / (tokens made + tokens true), tokens as bags."""
    scores = []
    for a, b in zip(made, truth):
        ids, counts = zip(*(np.unique(x[x >= 0], return_counts=True) for x in (a, b)))
        _, at, to = np.intersect1d(*ids, return_indices=True)
        total = sum(c.sum() for c in counts)
        scores.append(2 * np.minimum(counts[0][at], counts[1][to]).sum() / max(total, 1))
    return float(np.mean(scores))


def exact(made, truth) -> float:
    """The share of texts `[n, L]` that are the same token by token."""
    return float((made == truth).all(1).mean())


METRICS = {"l1": l1, "iou": iou, "f1": f1, "exact": exact}
