"""A row's own column, beside further negatives that are this row's alone (Structure-CLIP, arXiv 2305.06152; mmE5,
arXiv 2502.08468)."""

import dataclasses
import functools

import jax.numpy as jnp

from pretrain.models.tokens import alike
from pretrain.objectives.edges import Pairs
from pretrain.objectives.targets import base


@dataclasses.dataclass(frozen=True)
class Target(base.Target):
    """Behind all b of the batch a row of a has its own b in other forms, one column each: `[B, B + variants]`. The
    other direction, whose rows are b, is as without them.

    variants: NAME/VARIANT of the batch, NAME the b of an edge, such as what `swapped_text` writes. A form that an
    example lacks, or that says the same as its b or as a form before it, is no column of its: mmE5's release repeats
    the last of too few negatives, which counts it twice.
    """

    variants: tuple[str, ...] = ("swapped",)

    embeddings = True

    def check(self, objective):
        if not self.variants or len(set(self.variants)) < len(self.variants):
            objective.fail("target.variants", "list at least one, each once", self.variants)
        self.passes(objective, True)

    def passes(self, objective, train: bool) -> dict:
        out = Pairs.passes(objective, train)
        for b in dict.fromkeys(e.b for e in objective.edges):
            for variant in self.variants:
                form = objective.form(b, variant, "target.variants")
                if form["shown", f"{b}/{variant}"] == out["shown", b]:
                    objective.fail("target.variants", f"{variant!r} is {b!r} itself: name other forms", self.variants)
                out |= form
        return out

    def sides(self, objective, outputs, edge, present):
        shown, every = [outputs["shown", f"{edge.b}/{variant}"] for variant in self.variants], []
        for i, variant in enumerate(self.variants):
            repeated = functools.reduce(jnp.logical_or, [alike(shown[i], x) for x in shown[:i]], False)
            every.append(objective.differs(outputs, edge.b, variant) & present & jnp.logical_not(repeated))
        counted = jnp.stack(every, 1)
        clean = lambda x, there: jnp.where(there[..., None], x.astype(jnp.float32), 0.0)
        own = clean(outputs["z", edge.a], present)
        forms = jnp.stack([outputs["z", f"{edge.b}/{variant}"] for variant in self.variants], 1)
        return {"cosines": (own[:, None] * clean(forms, counted)).sum(-1), "counted": counted}, {}

    def __call__(self, candidates, scale, rows, columns):
        if not rows:  # those of b
            return candidates
        return candidates.beside(scale * rows["cosines"], rows["counted"])
