"""A hinge on one named negative: another form of the example's own text, such as that of `swapped_text`."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.objectives.edges import Pairs


@dataclasses.dataclass(frozen=True)
class Objective(Pairs):
    """The mean over examples of relu(margin + s(a, b⁻) − s(a, b)), s the cosine, b⁻ the b of an edge in another form
    (Structure-CLIP, arXiv 2305.06152, its release: margin .1, weight 5). Beside it `accuracy`: how often b is nearer.

    variant: that form, NAME/VARIANT of the batch. An example that has none, or one that says the same, does not count.
    """

    margin: float = 0.1
    variant: str = "swapped"

    def __post_init__(self):
        super().__post_init__()
        if not self.margin > 0:
            self.fail("margin", "must be positive")
        self.passes(True)  # refuses a variant that nobody writes

    def passes(self, train: bool) -> dict:
        out = super().passes(train)
        for b in dict.fromkeys(e.b for e in self.edges):
            out |= self.form(b, self.variant, "variant")
        return out

    def _counted(self, data) -> dict:
        present = self.present(data)
        return {e.name: present[e.a] & present[e.b] & self.differs(data, e.b, self.variant) for e in self.edges}

    def weights(self, data):
        counts = {name: counted.sum().astype(jnp.float32) for name, counted in self._counted(data).items()}
        return counts | {f"accuracy {name}": count for name, count in counts.items()}

    def totals(self, params, outputs, *, train, run):
        out, every = {}, self._counted(outputs)
        for e in self.edges:
            counted, names = every[e.name], (e.a, e.b, f"{e.b}/{self.variant}")
            # Zeros where one lacks: what is not finite there would pass the masks below into the gradient.
            a, b, negative = (jnp.where(counted[:, None], outputs["z", n].astype(jnp.float32), 0.0) for n in names)
            excess = (a * (negative - b)).sum(1)
            out[e.name] = jnp.where(counted, jax.nn.relu(self.margin + excess), 0.0).sum()
            out[f"accuracy {e.name}"] = (counted & (excess < 0)).sum().astype(jnp.float32)
        return out

    def loss_weight(self, name) -> float:
        return 0.0 if name.startswith("accuracy ") else super().loss_weight(name)
