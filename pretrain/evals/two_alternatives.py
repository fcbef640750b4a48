"""The choice between a caption and another form of it, such as its words exchanged: is more seen than the words?"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrain import build
from pretrain.evals.base import Score, Task
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Renamed, Whole, alike


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """How often an example's own b lies nearer to its a than its b in another form does, by cosine of the embeddings:
    the attribution and relation tests of ARO (arXiv 2210.01936), on which Structure-CLIP (arXiv 2305.06152) is judged.

    pairs: (a, b). variant: NAME/VARIANT of the batch for NAME = b, which a transform writes, such as `swapped_text`;
    in evaluation it is the same every time. Examples that lack one of the three, or whose forms say the same, do not
    count; a tie, within 1e-6, is half right.
    """

    place = 0

    pairs: tuple[tuple[str, str], ...]
    variant: str = "swapped"
    splits: tuple[str, ...] = ("val", "test")
    batch_size: int = 64

    def __post_init__(self):
        self.check_names("pairs", {n for pair in self.pairs for n in pair})
        written = build.variants(self.context.run)
        for a, b in self.pairs:
            for name in (a, b):
                if name not in self.context.embedded:
                    self.fail(
                        "pairs", f"no objective embeds {name!r}, but {', '.join(self.context.embedded) or 'none'}"
                    )
            if f"{b}/{self.variant}" not in written:
                self.fail(
                    "variant", f"no transform writes '{b}/{self.variant}'; written are {', '.join(written) or 'none'}"
                )
        if self.batch_size < 1:
            self.fail("batch_size", "must be at least 1")

    def check(self):
        """Reads until each pair has an example with both forms."""
        for a, b in self.pairs:
            entries = (a, b, f"{b}/{self.variant}")
            batches = self.context.batches(self.splits, self.batch_size)
            if not any(np.logical_and.reduce([_there(batch[e]) for e in entries]).any() for batch in batches):
                self.fail("splits", f"no example has {a!r}, {b!r} and '{b}/{self.variant}': take others")

    def run(self, params):
        for a, b in self.pairs:
            choose, right = self._choose(a, b), []
            for batch in self.context.batches(self.splits, self.batch_size):
                score, counted = jax.device_get(choose(params, batch))
                right.extend(score[counted & (batch["row"] >= 0)])
            yield f"{a}→{b}/{self.variant}", Score(float(np.mean(right)) if right else 0.5, 0.5)
            yield f"{a}→{b}/examples", float(len(right))

    def _choose(self, a: str, b: str):
        """jitted (params, batch) → (0, ½ or 1 of each example, which count)."""
        modalities, states = self.context.modalities, self.context.network
        shown = {n: Whole((n,), modalities) for n in (a, b)}
        shown["other"] = Renamed(shown[b], ((b, f"{b}/{self.variant}"),))
        leaves = {("shown", n): Leaf(make) for n, make in shown.items()}
        nodes = leaves | {("z", n): states.embedding(b if n == "other" else n, leaf) for (_, n), leaf in leaves.items()}

        @jax.jit
        def choose(params, batch):
            found = compute(nnx.merge(self.context.graph, params["model"]), nodes, batch)
            there = [found["shown", n].tokens.valid.any(1) for n in (a, b, "other")]
            counted = functools.reduce(jnp.logical_and, there) & ~alike(found["shown", b], found["shown", "other"])
            apart = (found["z", a] * (found["z", b] - found["z", "other"])).sum(1)
            return jnp.where(jnp.abs(apart) < 1e-6, 0.5, (apart > 0).astype(jnp.float32)), counted

        return choose


def _there(entry: dict) -> np.ndarray:
    """Which examples have any of it, bool `[B]`."""
    return np.asarray(entry["valid"]).reshape(len(entry["valid"]), -1).any(1)
