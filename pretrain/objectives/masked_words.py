"""Masked words of a text, predicted from the others and from what lies beside it: BERT's objective."""

import dataclasses

import jax.numpy as jnp

from pretrain.models.parts.base import STREAM
from pretrain.models.parts.word_head import WORDS
from pretrain.objectives.paired import Paired


@dataclasses.dataclass(frozen=True)
class Objective(Paired):
    """The mean over masked words of −log p (BERT, arXiv 1810.04805, section 3.1; across modalities LXMERT, arXiv
    1908.07490, section 3.1.1), those of mismatched texts included.

    head: a `parts.word_head`.
    """

    gives, of = WORDS, STREAM

    def passes(self, train: bool) -> dict:
        network, words = self.context.network, self.leaf("words")
        (stream,) = network[self.head].reads
        return {"words": words, "nll": network.call(self.head, self.over(stream), words)}

    def weights(self, data):
        return {"nll": data["words"]["chosen"].sum().astype(jnp.float32)}

    def totals(self, params, outputs, *, train, run):
        return {"nll": outputs["nll"].sum()}
