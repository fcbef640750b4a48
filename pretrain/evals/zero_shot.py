"""Zero-shot classification: the class whose name, in a sentence, lies nearest (CLIP, arXiv 2103.00020, section 3.1)."""

import dataclasses

import numpy as np

from pretrain import build
from pretrain.evals.base import Score, Task, some
from pretrain.evals.features import embed_texts, represent, unit
from pretrain.evals.knn import held_out, labels, labels_of


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Accuracy (and top 5) of modalities against class names in the text modality.

    A class is the mean of its embeddings at unit length, over all `templates` ("a photo of a {}") and all its names:
    `names` gives them for labels that are not called by their own, {label: [name, …]}. Chance is one in the classes.
    The classes are those of the split `train`.
    """

    place = 10

    text: str
    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    templates: tuple[str, ...] = ("{}",)
    names: dict = dataclasses.field(default_factory=dict)
    train: str = "train"
    splits: tuple[str, ...] = ("val", "test")

    def __post_init__(self):
        check_embedded(self, "modalities", self.modalities)
        check_embedded(self, "text", [self.text], texts=True)
        if not self.templates or any("{}" not in t for t in self.templates):
            self.fail("templates", "needs sentences with {} where the class name goes")

    @staticmethod
    def default(context) -> dict:
        texts = [n for n in texts_of(context) if n in context.embedded]
        text = some(texts, 1, "needs a text modality that an objective embeds")[0]
        others = [n for n in context.embedded if n not in texts_of(context)]
        others = some(others, 4, f"needs another embedded modality beside {text!r}")
        return dict(text=text, modalities=others, labels=labels(context, 1), splits=held_out(context))

    def check(self):
        known = set()
        for label in self.labels:
            known |= set(self.context.classes(label, self.train, self.splits, f"{self.where}.labels"))
        unknown = [name for name in self.names if name not in known]
        if unknown:
            self.fail("names", f"no example is labelled {unknown[0]!r}; labels are {', '.join(sorted(known)[:20])}")

    def run(self, params):
        for label in self.labels:
            classes = self.context.classes(label, self.train, self.splits, f"{self.where}.labels")
            heads = self._heads(params, classes)
            for name in self.modalities:
                rows, z = represent(self.context, params, name, self.splits, "z")
                wanted = np.searchsorted(classes, labels_of(self, label, rows))
                similarity = unit(z) @ heads.T
                own = np.take_along_axis(similarity, wanted[:, None], 1)
                place = (similarity >= own).sum(1)  # ties count against the class
                for k in (1, 5):
                    if k < len(classes):
                        key = f"{name}/{label}" if k == 1 else f"{name}/{label}/top {k}"
                        yield key, Score((place <= k).mean(), k / len(classes))

    def _heads(self, params, classes):
        """`[C, E]`."""
        called = [self.names.get(c, [c]) for c in classes]
        sentences = [t.replace("{}", name) for names in called for name in names for t in self.templates]
        z = unit(embed_texts(self.context, params, self.text, sentences))
        ends = np.cumsum([len(names) * len(self.templates) for names in called])
        return unit(np.stack([part.mean(0) for part in np.split(z, ends[:-1])]))


def check_embedded(task: Task, key: str, names, *, texts: bool = False):
    """ValueError unless an objective embeds every modality; texts: and its tokenizer writes texts that nobody read."""
    task.check_names(key, names)
    for name in names:
        if name not in task.context.embedded:
            task.fail(key, f"no objective embeds {name!r}; they embed {', '.join(task.context.embedded)}")
        if texts and name not in (known := texts_of(task.context)):
            task.fail(key, f"has no text tokenizer; there are {', '.join(known) or 'none'}")


def texts_of(context) -> list[str]:
    """Modalities that a text tokenizer makes."""
    known = build.text_tokenizers(context.run)
    return [m.name for m in context.modalities if m.text and m.tokenizer in known]
