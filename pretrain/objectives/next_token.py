"""Each word of a text from those before it, and from what stands before the text: causal language modelling."""

import dataclasses

import jax.numpy as jnp

from pretrain.models.parts.word_head import WORDS
from pretrain.models.passes import Leaf
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.sequences import Sequence, Words
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Objective:
    """The mean over words w_n of −log p(w_n | what stands before), and of the first token that is appended to a text
    (GILL, arXiv 2305.17216, sections 3.1 and 3.2); a class token before the text predicts its first word.

    sequence: what is read; its last segment is the text. head: a `parts.word_head` over what predicts each token
    (`parts.previous`).
    """

    context: Context
    sequence: Sequence
    head: str = "words"
    coef: Coefficient = 1.0

    scope, embedded = EXAMPLE, ()

    def __post_init__(self):
        network, where = self.context.network, "objectives.next_token"
        if not network.parts:
            return
        self.sequence.check(self.context, f"{where}.sequence")
        if network.need(self.head, f"{where}.head").gives != WORDS:
            raise ValueError(f"{where}.head={self.head!r}: it scores no words: name a `word_head`")

    @property
    def tokens_per_example(self) -> int:
        """What an example has; what stands before it in training is not counted."""
        return sum(m.length for m in self.sequence.modalities(self.context))

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        network, sequence = self.context.network, self.sequence
        names = tuple(m.name for m in sequence.modalities(self.context))
        words = Leaf(Words(names, sequence.appends(self.context), self.context.modalities))
        (stream,) = network[self.head].reads
        before = network.over(stream, sequence.nodes(self.context, train))
        return {"words": words, "nll": network.call(self.head, before, words)}

    def weights(self, data):
        return {"nll": data["words"]["chosen"].sum().astype(jnp.float32)}

    def totals(self, params, outputs, *, train, run):
        return {"nll": outputs["nll"].sum()}

    def loss_weight(self, name) -> float:
        return 1.0
