"""InfoNCE in which a text is embedded by a language model, in training behind another example."""

import dataclasses

from pretrain.objectives import contrastive
from pretrain.objectives.edges import Edge  # noqa: F401 (an edge is part of this objective's config)
from pretrain.objectives.sequences import Sequence


@dataclasses.dataclass(frozen=True)
class Objective(contrastive.Objective):
    """As `contrastive`; the embedding of the text of `sequence` is that of the text in its sequence (GILL, arXiv
    2305.17216, section 3.2)."""

    sequence: Sequence = dataclasses.field(kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.context.network.parts:
            return
        self.sequence.check(self.context, f"{self.where}.sequence")
        text = self.sequence.text(self.context).name
        if text not in self.embedded:
            known = ", ".join(self.embedded)
            raise ValueError(f"{self.where}.sequence: its text {text!r} is of no edge; they embed {known}")

    def passes(self, train: bool) -> dict:
        out, network = super().passes(train), self.context.network
        text = self.sequence.text(self.context).name
        project = out["z", text]
        pooled = network.over(project.args[0].part, self.sequence.nodes(self.context, train))
        return out | {("z", text): network.call(project.part, pooled, modality=text)}
