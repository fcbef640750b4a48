"""Classification by texts: an example's class is the one whose text lies nearest (CLIP, arXiv 2103.00020, section 3.1),
trained, as one trains prompts (CoOp, arXiv 2109.01134; MaPLe, arXiv 2210.03117).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from pretrain.models.parts.prompts import PROMPTS
from pretrain.models.passes import Call, Leaf, ordered
from pretrain.objectives.base import EXAMPLE
from pretrain.objectives.corruptions import Label
from pretrain.objectives.edges import Embedding
from pretrain.parameters import undecayed


@dataclasses.dataclass(frozen=True)
class Objective(Embedding):
    """−log softmax_k(exp(s) z · t_k) of an example's class, z its embedding and t_k that of a class's text, of length 1
    (MaPLe, section 3.1). Beside it the `accuracy`.

    modality: what is classified; text: of the class texts. label: the run's labels, with `classes`, whose names stand
    in `template`. among: the classes that there are to choose from, () for all; examples of others do not count.
    s is fixed: what a loaded run learned under the objective of this one's name (`contrastive`'s log_scale), else
    −log temperature. max_scale: what exp(s) is clamped to, as there.
    """

    modality: str
    text: str
    label: str
    template: str = "a photo of a {}."
    among: tuple[str, ...] = ()
    temperature: float = 0.01
    max_scale: float = 100.0

    scope = EXAMPLE

    def __post_init__(self):
        super().__post_init__()
        known = {m.name: m for m in self.context.labels if m.classes}
        if self.label not in known:
            self.fail("label", f"no labels with `classes` in config.labels; there are {', '.join(known) or 'none'}")
        if unknown := [name for name in self.among if name not in self._label.numbers]:
            self.fail("among", f"{self.label!r} has no class {unknown[0]!r}, but {', '.join(self._label.classes)}")
        if len(set(self.classes)) < max(2, len(self.classes)):
            self.fail("among", "name two classes or more, each once")
        if self.template.count("{}") != 1:
            self.fail("template", "needs one {} where the class name goes")
        for key in ("temperature", "max_scale"):
            if not getattr(self, key) > 0:
                self.fail(key, "must be positive")

    @property
    def embedded(self) -> tuple[str, ...]:
        return self.modality, self.text

    @property
    def tokens_per_example(self) -> int:
        return next(self._size(m) for m in self.context.modalities if m.name == self.modality)

    @property
    def _label(self):
        return next(m for m in self.context.labels if m.name == self.label)

    @property
    def classes(self) -> tuple[str, ...]:
        """Those to choose from, in the order of their texts."""
        return self.among or self._label.classes

    def init(self, key) -> dict:
        return {"log_scale": undecayed(jnp.float32(-math.log(self.temperature)), fixed=True)}

    def passes(self, train: bool) -> dict:
        texts = self.context.texts(self.text, [self.template.replace("{}", c) for c in self.classes], self.network)
        classes, shown = self.network.embedding(self.text, texts), self.shown(self.modality)
        self._check(texts.make.batch, classes)
        z = self.network.embedding(self.modality, shown)
        return {"shown": shown, "label": Leaf(Label(self.label)), "z": z, "classes": classes}

    def _check(self, written: dict, classes):
        """ValueError for texts that are alike, or of which prompts would take the place of more than they share."""
        ids = np.where(written["valid"], written["ids"], -1)
        same = next((i for i in range(len(ids)) if (ids[:i] == ids[i]).all(1).any()), None)
        if same is not None:
            self.fail("template", f"the text of {self.classes[same]!r} is another's, too: give it a longer modality")
        names = [n.part for n in ordered([classes]) if isinstance(n, Call) and self.network[n.part].gives == PROMPTS]
        shared = int((ids == ids[0]).all(0).argmin())
        for name, part in ((name, self.network[name]) for name in names):
            if part.at + part.length > shared:
                end = f"{part.length} prompts at={part.at} of {name!r}"
                self.fail("template", f"{end} need places before the class name: the texts share {shared} tokens")

    def weights(self, data):
        return dict.fromkeys(("nll", "accuracy"), self._known(data).sum().astype(jnp.float32))

    def totals(self, params, outputs, *, train, run):
        scale = jnp.exp(jnp.minimum(params["log_scale"], math.log(self.max_scale)))
        logits, target = scale * outputs["z"] @ outputs["classes"].T, self._target(outputs)
        nll = jax.nn.logsumexp(logits, 1) - jnp.take_along_axis(logits, target[:, None], 1)[:, 0]
        found = {"nll": nll, "accuracy": logits.argmax(1) == target}
        return {k: jnp.where(self._known(outputs), v, 0.0).sum() for k, v in found.items()}

    def loss_weight(self, name) -> float:
        return float(name == "nll")

    def _known(self, data):
        """Which examples have a picture and one of the classes, `[B]`."""
        there = self._numbers[data["label"]["ids"]] >= 0
        return there & data["label"]["valid"] & data["shown"].tokens.valid.any(1)

    def _target(self, data):
        """The number of each example's class among the texts `[B]`, 0 of others."""
        return jnp.maximum(self._numbers[data["label"]["ids"]], 0)

    @property
    def _numbers(self):
        """Of every label its place among the texts, −1 of those that have none."""
        place = {c: i for i, c in enumerate(self.classes)}
        return jnp.asarray([place.get(c, -1) for c in self._label.classes])
