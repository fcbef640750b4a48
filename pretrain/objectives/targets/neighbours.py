"""A row's own column, without those of its group that may be true of it, too (OpenShape, arXiv 2305.10764)."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.objectives.targets import base

DROPPED = ("left out", "zero")


@dataclasses.dataclass(frozen=True)
class Target(base.Target):
    """Of every `size` examples in a row, as order `neighbours` puts them, row i is not compared with column j where
    ⟨image_i, text_j⟩ > ⟨image_i, text_i⟩ − margin, embeddings without gradient; in the other direction row j is not
    with column i. Rows are what an edge names first. Where one of the three is lacking, nothing is dropped.

    image, text: modalities. dropped: `left out`, as is meant, or `zero`: a logit of 0, which stays in the denominator
    as exp(0), as in the release.
    """

    size: int
    image: str = "image"
    text: str = "text"
    margin: float = 0.1
    dropped: str = "left out"

    def check(self, objective):
        if self.size < 2:
            objective.fail("target.size", "must be at least 2: that of data.order", self.size)
        if self.dropped not in DROPPED:
            objective.fail("target.dropped", f"must be one of {', '.join(DROPPED)}", self.dropped)
        for key in ("image", "text"):
            if (name := getattr(self, key)) not in objective.network.embeds:
                gives = ", ".join(objective.network.embeds) or "nothing"
                objective.fail(f"target.{key}", f"the network gives no embedding of it, but of {gives}", name)
        if self.image == self.text:
            objective.fail("target.text", "name another modality than `image`", self.text)

    def passes(self, objective, train: bool) -> dict:
        out = {}
        for name in (self.image, self.text):
            leaf = objective.shown(name)
            out |= {("shown", name): leaf, ("z", name): objective.network.embedding(name, leaf)}
        return out

    def sides(self, objective, outputs, edge, present):
        there = {n: outputs["shown", n].tokens.valid.any(1) for n in (self.image, self.text)}
        image, text = (
            jnp.where(there[n][:, None], jax.lax.stop_gradient(outputs["z", n]).astype(jnp.float32), 0.0)
            for n in (self.image, self.text)
        )
        group = jnp.arange(len(image)) // self.size
        both = there[self.image] & there[self.text]
        return {"image": image, "own": (image * text).sum(1), "both": both, "group": group}, {
            "text": text, "there": there[self.text], "group": group,
        }  # fmt: skip

    def __call__(self, candidates, scale, rows, columns):
        if "image" in rows:
            near = self._near(rows, columns)
        else:
            near = self._near(columns, rows).T
        keep = (candidates.weights > 0) | ~near
        if self.dropped == "zero":
            return candidates._replace(logits=jnp.where(keep, candidates.logits, 0.0))
        return candidates._replace(counted=candidates.counted & keep)

    def _near(self, a, b):
        """Which pairs are dropped, bool `[n, m]`."""
        cosines = jnp.matmul(a["image"], b["text"].T, precision=jax.lax.Precision.HIGHEST)
        known = a["both"][:, None] & b["there"] & (a["group"][:, None] == b["group"])
        return known & (cosines > a["own"][:, None] - self.margin)
