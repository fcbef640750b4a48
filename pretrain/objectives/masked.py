"""Masked multimodal modeling: 4M's objective (arXiv 2312.06647, section 2.3)."""

import dataclasses

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.objectives.masking import mask_example


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One component of the mixture of Dirichlets: modality name → alpha. A modality left out gets none."""

    inputs: dict
    targets: dict
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Objective:
    """loss = mean over the target modalities m of CE_m, CE_m the mean over the predicted tokens of m (4M's `mod`).

    input_tokens, target_tokens: (smallest, largest) token budget; the largest is the static size. Here a modality's
    mean is over the global batch; 4M takes it per rank and averages the ranks.
    """

    modalities: tuple[Modality, ...]
    sentinel: int
    n_sentinels: int
    input_tokens: tuple[int, int]
    target_tokens: tuple[int, int]
    mixture: tuple[Mixture, ...]
    coef: float = 1.0

    def __post_init__(self):
        names = {m.name: m for m in self.modalities}
        for i, c in enumerate(self.mixture):
            for side, alphas in (("inputs", c.inputs), ("targets", c.targets)):
                for name, alpha in alphas.items():
                    where = f"objectives.masked.mixture[{i}].{side}[{name!r}]={alpha}"
                    if name not in names:
                        raise ValueError(f"{where}: no such modality; the run has {', '.join(names)}")
                    if not isinstance(alpha, (int, float)) or alpha < 0:
                        raise ValueError(f"{where}: a Dirichlet alpha must not be negative, and a number")
                    if not getattr(names[name], side):
                        raise ValueError(f"{where}: the modality's spec says {side}=False")
                if not any(a > 0 for a in alphas.values()):
                    raise ValueError(f"objectives.masked.mixture[{i}].{side}: needs at least one positive alpha")
        longest = max((m.length for m in self.modalities if m.kind == "sequence"), default=0)
        if longest // 2 + 2 > self.n_sentinels:
            raise ValueError(
                f"objectives.masked: a sequence of {longest} tokens can need {longest // 2 + 2} sentinels, the text "
                f"tokenizer has {self.n_sentinels}; shorten the modality"
            )
        if not sum(c.weight for c in self.mixture) > 0:
            raise ValueError("objectives.masked.mixture: needs a component of positive weight")
        for key in ("input_tokens", "target_tokens"):
            low, high = getattr(self, key)
            if not 0 <= low <= high or high < 1:
                raise ValueError(f"objectives.masked.{key}={low, high}: needs 0 <= smallest <= largest, largest >= 1")

    @property
    def targets(self) -> list[str]:
        """The modalities that some component of the mixture can ask for."""
        return [m.name for m in self.modalities if any(c.targets.get(m.name, 0) > 0 for c in self.mixture)]

    @property
    def tokens_per_example(self) -> int:
        return self.input_tokens[1] + self.target_tokens[1]

    def init(self, key) -> dict:
        return {}

    def view(self, batch, keys):
        """(inputs TokenSet `[B, N]`, queries TokenSet `[B, M]`, labels `[B, M]`)."""

        def alphas(side):
            return [[getattr(c, side).get(m.name, 0.0) for m in self.modalities] for c in self.mixture]

        def one(example, key):
            return mask_example(
                key, example, self.modalities, inputs=self.input_tokens, outputs=self.target_tokens,
                alphas=(alphas("inputs"), alphas("targets"), [c.weight for c in self.mixture]),
                sentinel=self.sentinel, n_sentinels=self.n_sentinels,
            )  # fmt: skip

        return jax.vmap(one)({m.name: batch[m.name] for m in self.modalities}, keys)

    def weights(self, view):
        _, queries, _ = view
        return self._per_modality(jnp.ones(queries.valid.shape), queries)

    def totals(self, model, own, view, keys, *, train):
        inputs, queries, labels = view
        y = model.decode(model.encode(inputs), queries)
        return self._per_modality(model.nll(y, queries, labels), queries)

    def share(self, name) -> float:
        return 1.0 / len(self.targets)

    def _per_modality(self, values, queries):
        names = [m.name for m in self.modalities]
        mine = {t: (queries.modality == names.index(t)) & queries.valid for t in self.targets}
        return {t: jnp.where(m, values, 0.0).sum() for t, m in mine.items()}
