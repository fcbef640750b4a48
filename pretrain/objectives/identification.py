"""Who an example is, by one classifier for all modalities (instance loss, arXiv 1711.05535)."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.passes import Leaf
from pretrain.objectives.base import EXAMPLE
from pretrain.objectives.corruptions import Label
from pretrain.objectives.edges import Embedding
from pretrain.objectives.paired import cross_entropy
from pretrain.parameters import param, undecayed


@dataclasses.dataclass(frozen=True)
class Objective(Embedding):
    """The mean over modalities of −log softmax(W e + b) at an example's label, e the modality's embedding before it is
    brought to length 1 (IRRA, arXiv 2303.12501, section 3.3). Beside it the `accuracy` of each.

    label: the name of the run's labels. What lacks a modality does not count for it.
    """

    modalities: tuple[str, ...]
    label: str

    scope = EXAMPLE

    def __post_init__(self):
        super().__post_init__()
        known = {m.name: m for m in self.context.labels if m.form == "ids"}
        if self.label not in known:
            self.fail("label", f"no such labels in config.labels; there are {', '.join(known) or 'none'}")
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            self.fail("modalities", "list those that are classified, each once")

    @property
    def embedded(self) -> tuple[str, ...]:
        return self.modalities

    @property
    def classes(self) -> int:
        return next(m.vocab_size for m in self.context.labels if m.name == self.label)

    def init(self, key) -> dict:
        """The classifier; IRRA's starts this small, too."""
        kernel = 0.001 * jax.random.normal(key, (self.network.embed_dim, self.classes))
        return {"kernel": param(kernel), "bias": undecayed(jnp.zeros(self.classes))}

    def passes(self, train: bool) -> dict:
        out, network = super().passes(train), self.network
        for m in self.modalities:
            z = out.pop(("z", m))
            out["raw", m] = network.call(z.part, *z.args, raw=True, **dict(z.options))
        return out | {"label": Leaf(Label(self.label))}

    def weights(self, data):
        known = {m: there & data["label"]["valid"] for m, there in self.present(data).items()}
        counts = {m: there.sum().astype(jnp.float32) for m, there in known.items()}
        return counts | {f"accuracy {m}": count for m, count in counts.items()}

    def totals(self, params, outputs, *, train, run):
        out, labels, present = {}, outputs["label"], self.present(outputs)
        for m in self.modalities:
            found = cross_entropy(outputs["raw", m] @ params["kernel"] + params["bias"], labels["ids"])
            known = present[m] & labels["valid"]
            out[m], out[f"accuracy {m}"] = (jnp.where(known, found[k], 0.0).sum() for k in ("nll", "accuracy"))
        return out

    def loss_weight(self, name) -> float:
        return 1 / len(self.modalities) if name in self.modalities else 0.0
