"""What an objective is: corruption on the device, then sums whose denominators are known before the forward pass.

loss = Σ_k coef · total_k / W_k over all terms k of all objectives, W_k the weight of the *global* batch: exact under
accumulation, padding and sharding. An objective is a frozen dataclass `Objective` in a file of its own; its fields are
its config keys, except `context`, which the build fills in.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.states import States


@dataclasses.dataclass(frozen=True)
class Context:
    """What a run gives its objectives.

    modalities; labels: what they may ask for and the network never sees; sources: the names of the sources of its data,
    in their order, () of a run that has only one; network: what the network states; sentinel, n_sentinels: the first of
    the ids that stand for masked spans of texts, and how many there are.
    """

    modalities: tuple[Modality, ...]
    labels: tuple[Modality, ...] = ()
    sources: tuple[str, ...] = ()
    network: States = States()
    sentinel: int = 0
    n_sentinels: int = 0


class Objective(Protocol):
    """A per-example objective."""

    context: Context

    coef: float
    tokens_per_example: int  # that pass through the network, to report a rate

    def init(self, key) -> dict:
        """Own parameters with their roles (`parameters.param`), a nested dict; {} if none."""

    def view(self, batch, keys) -> Any:
        """Corruption and selection: data only, every leaf with leading axis B. keys `[B]`, one an example.

        In training the batch holds `step [B]` too, the number of the step from 0.
        """

    def weights(self, view) -> dict[str, jax.Array]:
        """The coefficient-free denominators W_k, from data alone."""

    def totals(self, model, own, view, keys, *, train: bool) -> dict[str, jax.Array]:
        """Sums of the same names as the weights; beside them, if it likes, `statistics`, any tree of further sums."""

    def share(self, name: str) -> float:
        """coef of one term inside this objective; the shares usually sum to 1, a metric's is 0."""

    def update(self, model, params, statistics):
        """The network's parameters with what follows from the statistics of the global batch, such as a codebook.

        Only of an objective that has some, after the optimizer's own update, and not where a step is skipped or
        `config.adapt` trains a part beside a base. What may change has the role `statistics`.
        """

    def summary(self, statistics) -> dict[str, jax.Array]:
        """Metrics of a step that are no sums: {name: value}."""


class CrossExample(Protocol):
    """An objective that compares examples: it embeds each alone, then pairs all embeddings of the global batch.

    The split lets `gradcache` accumulate exactly. `init`, `view` and `weights` are as in Objective.
    """

    coef: float

    def embed(self, model, own, view, keys) -> dict[str, jax.Array]:
        """Embeddings, every leaf floating with leading axis B. `matryoshka` also asks for those of an `early` layer."""

    def pair(self, own, z) -> dict[str, jax.Array]:
        """Sums of the same names as the weights, from the embeddings of the global batch."""


def is_cross_example(objective) -> bool:
    return hasattr(objective, "pair")


class Term(NamedTuple):
    """total and weight of one loss term or metric: merged by adding, read as total / weight."""

    total: jax.Array
    weight: jax.Array


def weighted_sum(objective, totals: dict, weights: dict):
    """Σ_k total_k / W_k · coef · share_k: this objective's part of the loss."""
    terms = (totals[k] / jnp.maximum(weights[k], 1e-9) * objective.share(k) for k in weights)
    return objective.coef * sum(terms)
