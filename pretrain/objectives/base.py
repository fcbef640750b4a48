"""What an objective is: nodes that it needs, then sums whose denominators are known before the forward pass.

loss = Σ_k coef · total_k / W_k over all terms k of all objectives, W_k the weight of the *global* batch: exact under
accumulation, padding and sharding. An objective is a frozen dataclass `Objective` in a file of its own; its fields are
its config keys, except `context`, which the build fills in.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.passes import ONLINE, Call, Constant, Leaf
from pretrain.models.states import States
from pretrain.models.tokens import Renamed, Whole
from pretrain.schedule import Coefficient, at

EXAMPLE, BATCH = "example", "batch"  # the scopes of objectives


@dataclasses.dataclass(frozen=True)
class Context:
    """What a run gives its objectives.

    modalities; labels: what they may ask for and the network never sees; sources: the names of the sources of its data,
    in their order, () of a run that has only one; network: what the network states; others: what the run's other models
    state, peers and references; sentinel, n_sentinels: the first of the ids that stand for masked spans of texts, and
    how many there are; write: (modality, texts) → the batch entry of texts that are no example's; read: split → the
    batch of all its examples, as evaluation has them; variants: the entries NAME/VARIANT that transforms add to a
    batch.
    """

    modalities: tuple[Modality, ...]
    labels: tuple[Modality, ...] = ()
    sources: tuple[str, ...] = ()
    network: States = States()
    others: tuple[States, ...] = ()
    sentinel: int = 0
    n_sentinels: int = 0
    write: Callable = dataclasses.field(default=None, compare=False)
    variants: tuple[str, ...] = ()
    read: Callable = dataclasses.field(default=None, compare=False)

    def variant(self, modality: str | tuple, variant: str, where: str, network: States | None = None) -> Leaf:
        """The node of another form of a modality, whole, which a transform writes beside it: MODALITY/VARIANT; or of
        several modalities side by side.

        network: the model that is shown it; None for what learns. ValueError names `where` if no transform writes it.
        """
        names, network = (modality,) if isinstance(modality, str) else tuple(modality), network or self.network
        entries = [f"{name}/{variant}" for name in names]
        for entry in entries:
            if entry not in self.variants:
                written = ", ".join(self.variants) or "none"
                raise ValueError(
                    f"{where}={variant!r}: no transform writes {entry!r}; they write {written}: add one to "
                    "config.data.transforms, such as swapped_text"
                )
        called = tuple(map(network.called, names))
        return network.leaf(Renamed(Whole(called, network.specs), tuple(zip(called, entries))))

    def texts(self, modality: str, texts, network: States | None = None) -> Constant:
        """The node of texts that are no example's, such as the names of classes, in their order.

        network: the model that is shown them; None for what learns. ValueError if no tokenizer writes the modality.
        """
        return Constant(Written(modality, tuple(texts), network or self.network, self.write(modality, texts)))

    def every(self, modality: str, split: str, network: States | None = None) -> Constant:
        """The node of a modality of all examples of a split of the run's data, in their order, such as the entities of
        a graph. They are read when they are first computed, and are part of the program: thousands, not millions.

        network: the model that is shown them; None for what learns.
        """
        return Constant(Listed(modality, split, network or self.network, self.read))

    def model(self, name: str, where: str) -> States:
        """What a model states, whose nodes are then of it: `online`, a peer, a reference. ValueError names `where`."""
        known = {ONLINE: self.network} | {states.model: states for states in self.others}
        if name not in known:
            raise ValueError(
                f"{where}={name!r}: no such model; there are {', '.join(known)}: add it to config.references, or to "
                "config.models if it is to learn"
            )
        return known[name]


@dataclasses.dataclass(frozen=True)
class Written:
    """What a model is shown of texts that are no example's; batch: their entry, of these texts in this modality."""

    modality: str
    texts: tuple[str, ...]
    network: States
    batch: dict = dataclasses.field(compare=False, repr=False)

    def __call__(self):
        return self.network.shown(self.modality).make({self.modality: self.batch})


@dataclasses.dataclass(frozen=True)
class Listed:
    """What a model is shown of all examples of a split in one modality. read: split → their batch."""

    modality: str
    split: str
    network: States
    read: Callable = dataclasses.field(compare=False, repr=False)

    def __call__(self):
        return self.network.shown(self.modality).make({self.modality: self.read(self.split)[self.modality]})


class Objective(Protocol):
    """scope: `example`: its totals are sums over examples, which microbatches add up. `batch`: it compares examples: it
    gets the outputs of the whole global batch, and accumulation stays exact (`gradcache`).
    """

    context: Context
    coef: Coefficient
    scope: str
    tokens_per_example: int  # that pass through the network, to report a rate
    embedded: tuple[str, ...]  # the modalities whose embeddings in the common space it asks for

    def init(self, key) -> dict:
        """Its own parameters with their roles (`parameters.param`), a nested dict; {} if none."""

    def passes(self, train: bool) -> dict[str, Leaf | Constant | Call]:
        """{name: node} of what `totals` reads: data and outputs of the networks.

        A corruption of a leaf sees the undivided batch, in training with `step [B]`, the number of the step from 0.
        """

    def weights(self, data: dict) -> dict[str, jax.Array]:
        """The coefficient-free denominators W_k, from the data among `passes` alone."""

    def totals(self, params, outputs: dict, *, train: bool, run) -> dict[str, jax.Array]:
        """Sums of the same names as the weights; beside them, if it likes, `statistics`, any tree of further sums.

        params: of `init`. outputs: of `passes`, by name. run(part, *args, **options): what a part of the network gives
        for rows that are made of the outputs, such as pairs of examples of the batch; it runs in as many chunks as the
        batch has microbatches, and is computed again in the backward pass.
        """

    def loss_weight(self, name: str) -> float:
        """coef of one term inside this objective; the shares usually sum to 1, a metric's is 0."""

    def update(self, model, params, statistics):
        """The network's parameters with what follows from the statistics of the global batch, such as a codebook.

        Only of an objective that has some, be it an empty tree, after the optimizer's own update, and not where a step
        is skipped. What may change has the role `statistics`, or is what `config.train` trains of a parameter: the
        whole, its last blocks or its rows. The rest stays as it is.
        """

    def summary(self, statistics) -> dict[str, jax.Array]:
        """Metrics of a step that are no sums: {name: value}."""


class Term(NamedTuple):
    """total and weight of one loss term or metric: merged by adding, read as total / weight."""

    total: jax.Array
    weight: jax.Array


def weighted_sum(objective, totals: dict, weights: dict, step=None):
    """Σ_k total_k / W_k · coef · share_k: this objective's part of the loss at a step, or at the end."""
    terms = (totals[k] / jnp.maximum(weights[k], 1e-9) * objective.loss_weight(k) for k in weights)
    return at(objective.coef, step) * sum(terms)
