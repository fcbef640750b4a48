"""What the network makes of held-out examples, against what they are: pictures, label and depth maps, texts, boxes."""

import dataclasses
import functools
import importlib.metadata

import jax
import numpy as np

from data_pipeline.checks import check_fields
from data_pipeline.image import NO_LABEL
from data_pipeline.pipeline import Encoder, eval_batches
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer
from pretrain import build
from pretrain.evals.base import Score, Task, Unfit, parts
from pretrain.evals.knn import held_out
from pretrain.evals.made import METRICS, USUAL
from pretrain.evals.pictures import Images, image_rows
from pretrain.generate import consensus
from pretrain.generate.chain import Generator, Target


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """For each (inputs, target, metric): the target made of the inputs, `a` or several `a+b`, at 4M's out-of-the-box
    use (arXiv 2406.09406, section 4.1). Chance is what the thing made of another example scores.

    metric: a function of `evals.made`: of pictures `l1`, `iou` (silhouettes, edges), `miou` (label maps), `delta1`,
    `absrel`, `rmse` (depth), `angle` (normals); of texts `f1`, `exact`, `cider`, `ap` (boxes), `colours` (palettes).
    A picture is compared with the target's own tokens, decoded: what the tokenizer loses counts for neither. With
    `metric@FIELD` it is compared with that field of the example, a picture or texts, such as all captions of an image.
    steps, temperature, guidance: of `generate.chain.Target`; one text alone is greedy. samples: so many draws are made
    into one (`generate.consensus`). examples: at most so many of the splits, evenly spread.
    """

    place = 100

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
            m = specs.get(target)
            if m is None or not m.targets or not (_is_picture(m) or m.text):
                self.fail("pairs", f"{target!r} is no grid or sequence that the network predicts")
            if target in parts(inputs):
                self.fail("pairs", f"{target!r} would be given and asked for")
            reads = ("pictures",) if _is_picture(m) else ("ids", "words")
            allowed = [name for name, measured in METRICS.items() if measured.reads in reads]
            name, _, field = metric.partition("@")
            if name not in allowed or (field and METRICS[name].reads == "ids"):
                self.fail("pairs", f"the metric of {target!r} must be one of {', '.join(allowed)}; @FIELD not of ids")

    @staticmethod
    def default(context) -> dict:
        if not context.network.predicts:
            raise Unfit("only encoder-decoders generate")
        images = Images(context)
        try:
            context.tokenizers  # noqa: B018 (opens them)
        except (FileNotFoundError, ValueError) as reason:
            raise Unfit(str(reason)) from reason
        texts = [m for m in context.modalities if m.text]
        pictures = [m for m in context.modalities if _is_picture(m) and images.has(m.name)]
        pairs = []
        for given in (next((m.name for m in kind if m.inputs), None) for kind in (pictures, texts)):
            for kind, metric in ((pictures, "l1"), (texts, "f1")):
                target = next((m.name for m in kind if m.targets and m.name != given), None)
                if given and target:
                    pairs.append((given, target, USUAL.get(_stem(target), metric)))
        given = next((m.name for m in pictures if m.inputs), None)
        made = {target for _, target, _ in pairs}
        for m in (*pictures, *texts):
            if given not in (None, m.name) and m.targets and m.name not in made and _stem(m.name) in USUAL:
                pairs.append((given, m.name, USUAL[_stem(m.name)]))
        pairs = [p for p in pairs if _installed(p[2]) and (METRICS[p[2]].reads != "words" or _has_words(context, p[1]))]
        if not pairs:
            raise Unfit("needs two modalities among grids and texts, one of them a target")
        return dict(pairs=pairs, splits=held_out(context))

    def check(self):
        for _, target, metric in self.pairs:
            name, _, field = metric.partition("@")
            reads = METRICS[name].reads
            if reads == "pictures" and not self._images.has(target):
                self.fail("pairs", f"no tokenizer decodes {target!r}; leave this pair out")
            if reads == "words" and not _has_words(self.context, target):
                self.fail("pairs", f"the run has no text tokenizer for {target!r}; take f1 or exact")
            if not _installed(name):
                self.fail("pairs", f"{name} needs {METRICS[name].package}: pip install 'tokenloom[coco]'")
            if field and reads == "words":
                self.context.column(field, self.splits, f"{self.where}.pairs")
            elif field:
                check_fields([_picture(field, (1, 1, 1), metric)], self.context.source(self.splits))

    def run(self, params):
        for inputs, target, metric in self.pairs:
            batch = self._batch(inputs, target)
            made = self._made(params, batch, inputs, target, metric)
            truth = self._truth(batch, target, metric, np.shape(made))
            measure, others = METRICS[metric.partition("@")[0]].measure, [truth[i - 1] for i in range(len(truth))]
            others = np.stack(others) if isinstance(truth, np.ndarray) else others
            yield f"{inputs}→{target}/{metric}", Score(measure(made, truth), measure(made, others))

    def figures(self, params, images):
        """Given, made and true of some examples, for each pair of pictures."""
        for inputs, target, metric in self.pairs:
            if self._reads(metric) != "pictures":
                continue
            batch = jax.tree.map(lambda x: x[:10], self._batch(inputs, target))
            rows = [(n, images.pictures(n, batch[n])) for n in parts(inputs) if images.has(n)]
            made = self._made(params, batch, inputs, target, metric).astype(np.uint8)
            true = self._truth(batch, target, metric, made.shape).astype(np.uint8)
            yield f"{inputs} → {target}", image_rows([*rows, ("made", made), ("true", true)])

    def _made(self, params, batch, inputs: str, target: str, metric: str):
        generator = Generator(self.context.graph, params["model"], self.context.modalities)
        text, reads = self._modality(target).text, self._reads(metric)
        heat = 0.0 if text and self.samples == 1 else self.temperature
        how = Target(target, steps=self.steps, temperature=heat, guidance=self.guidance)
        made = [generator(batch, parts(inputs), [how], sample=s)[target] for s in range(self.samples)]
        if text and len(made) > 1:
            ids, valid = consensus.text(*(np.stack([m[k] for m in made]) for k in ("ids", "valid")))
            made = [{"ids": ids, "valid": valid}]
        views = [self._view(target, m, reads) for m in made]
        return views[0] if len(views) == 1 else consensus.picture(views, labels=metric.startswith("miou"))

    def _truth(self, batch, target: str, metric: str, shape):
        """What is true, in the form of what was made, of this shape; of words a list of true texts for each example."""
        field, reads = metric.partition("@")[2], self._reads(metric)
        if not field:
            true = self._view(target, batch[target], reads)
            return [[text] for text in true] if reads == "words" else true
        rows = batch["row"].tolist()
        if reads == "words":
            texts = self.context.column(field, self.splits, f"{self.where}.pairs")
            return [[texts[r]] if isinstance(texts[r], str) else list(texts[r]) for r in rows]
        spans = [m.range for m in self.context.modalities if m.field == field and m.range]
        spec = _picture(field, shape[1:], metric, *spans[:1])
        source, held = self.context.source(self.splits), {}
        for found in eval_batches(source, Encoder((spec,), {}, train=False), batch_size=64):
            pictures = zip(found["row"].tolist(), found["truth"]["pixels"], found["truth"]["valid"])
            held |= {row: pixels for row, pixels, valid in pictures if valid and row in rows}
        if len(held) < len(set(rows)):
            missing = next(r for r in rows if r not in held)
            raise ValueError(f"{self.where}.pairs: {metric!r}: row {missing} of {self.splits} has no {field!r}")
        return np.stack([held[r] for r in rows]).astype(np.float32)

    def _view(self, name: str, made, reads: str):
        """Pictures as numbers `[n, H, W, C]`, texts as their words, or as ids `[n, L]` without [EOS], −1 for none."""
        ids, valid = jax.device_get((made["ids"], made["valid"]))
        if reads == "pictures":
            return self._images.decode(name, ids).astype(np.float32)
        if reads == "words":
            return self._images.words(name, ids, valid)
        return np.where(valid & (ids != TextTokenizer.eos_id), ids.astype(np.int64), -1)

    def _reads(self, metric: str) -> str:
        return METRICS[metric.partition("@")[0]].reads

    def _modality(self, name) -> Modality:
        return next(m for m in self.context.modalities if m.name == name)

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


def _picture(field: str, shape, metric: str, span=()) -> Modality:
    """What a field is read as: of `miou` any classes; of a map that the run reads by its range, the same."""
    classes = NO_LABEL if metric.startswith("miou") else 0
    return Modality("truth", "pixels", tuple(shape), field, vocab_size=classes, resample="nearest", range=span)


def _is_picture(m: Modality) -> bool:
    """Whether its ids stand for a picture."""
    return bool(m.grid) and not m.dense


def _stem(name: str) -> str:
    return name.partition("@")[0]


def _has_words(context, name: str) -> bool:
    """Whether the run has the tokenizer that writes a sequence as words."""
    m = next(m for m in context.modalities if m.name == name)
    return m.tokenizer in build.text_tokenizers(context.run)


def _installed(metric: str) -> bool:
    package = METRICS[metric].package
    try:
        return not package or bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False
