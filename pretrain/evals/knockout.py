"""Which tokens hand on what the answer needs, in which blocks: attention knock-out (arXiv 2411.18620, section 3.2)."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrain.evals.base import Score, Task, Unfit, parts, split_layer, split_made
from pretrain.evals.intervened import Probe, check_probe, part_of
from pretrain.evals.knn import held_out, inputs, labels
from pretrain.models.edits import Cut
from pretrain.models.passes import compute
from pretrain.models.stream import NO_MODALITY

SPECIAL, LAST = "special", "last"  # groups beside the modalities


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """(p′ − p) / p of the right label where `target` may not look at `source` in a window of blocks, `source→target`:
    the mean over examples that are right when nothing is cut, at the block around which most is lost.

    p is that of a logistic regression on the pooled output of all the tokens of `modalities` (`a`, or `a+b`, which the
    network reads together), fitted to `train`. Chance is what is lost where p falls to the label's frequency.

    groups: of tokens, each cut from each other: names of modalities; `special`, class tokens and registers; `last`, the
    last token, which is then in no other group. () for all that there are, `last` where the network pools it.
    window: how many blocks are cut at once, around each in turn. heads: those that are cut, () for all. examples: how
    many at most, drawn from the splits. decay: of the regression's weights.
    """

    place = 88

    modalities: str
    label: str
    groups: tuple[str, ...] = ()
    window: int = 1
    heads: tuple[int, ...] = ()
    examples: int = 128
    decay: float = 0.01
    train: str = "train"
    splits: tuple[str, ...] = ("val", "test")
    seed: int = 0

    def __post_init__(self):
        self.check_names("modalities", (self.modalities,))
        if split_layer(self.modalities)[1] is not None or split_made(self.modalities)[1]:
            self.fail("modalities", "name modalities, `a` or `a+b`, without a layer and nothing made")
        if not self._part:
            self.fail("modalities", "no encoder whose attention can be cut reads them, all together, and is pooled")
        part = self.context.network[self._part]
        for name in self.groups:
            if name not in self._known:
                self.fail("groups", f"no tokens {name!r} here; there are {', '.join(self._known)}")
        if not 1 <= self.window <= part.depth:
            self.fail("window", f"must be 1 … {part.depth}, the blocks of {self._part!r}")
        for head in self.heads:
            if not 0 <= head < part.heads:
                self.fail("heads", f"{self._part!r} has heads 0 … {part.heads - 1}")
        check_probe(self)

    @staticmethod
    def default(context) -> dict:
        names = inputs(context, len(context.modalities))
        pairs = [f"{a}+{b}" for a, b in itertools.combinations(names, 2)]
        fits = [spec for spec in (*pairs, *names) if part_of(context.network, parts(spec))]
        if not fits:
            raise Unfit("the network pools nothing of an encoder whose attention can be cut")
        return dict(modalities=fits[0], label=labels(context, 1)[0], splits=held_out(context))

    def check(self):
        self.context.classes(self.label, self.train, self.splits, f"{self.where}.label")

    def run(self, params):
        lost, right, chance = self.lost(params)
        yield "right", right
        for (source, target), changes in lost.items():
            yield f"{source}→{target}", Score(changes.min(), chance)
            yield f"{source}→{target}/block", int(changes.argmin())

    def figures(self, params, images):
        """What is lost of each edge, around each block."""
        from pretrain.evals.pictures import matrix

        lost, _, _ = self.lost(params)
        values = -100 * np.asarray(list(lost.values()))
        title = f"{self.label} from {self.modalities}: % of the right answer's probability that is lost where tokens "
        title += "of the second group may not look at those of the first ↓ around block →"
        yield title, matrix(values, ["→".join(edge) for edge in lost], range(values.shape[1]), "{:.0f}")

    def lost(self, params):
        """({(source, target): mean (p′ − p) / p around each block `[depth]`}, how many are right, that of chance)."""
        probe = Probe(self, params, self.modalities, self._cut)
        depth, groups = self.context.network[self._part].depth, self._there(params, probe.batch)
        apart, of = LAST in groups, {name: i for i, name in enumerate(self._known)}
        whole = probe(0, 0, np.zeros(depth, bool), apart)
        own, right = probe.of_wanted(whole), whole.argmax(1) == probe.wanted
        # An untrained network may know nothing that could be lost.
        change = lambda p: ((p - own) / own)[right].mean() if right.any() else 0.0
        lost = {}
        for source, target in list(itertools.permutations(groups, 2)) or [(groups[0], groups[0])]:
            cuts = [around(block, self.window, depth) for block in range(depth)]
            found = [change(probe.of_wanted(probe(of[source], of[target], cut, apart))) for cut in cuts]
            lost[source, target] = np.asarray(found)
        return lost, probe.accuracy(whole), change(probe.frequency)

    def _cut(self, source, target, blocks, apart) -> dict:
        """{part: edit}; source, target: numbers of groups; apart: whether the last token is a group of its own."""
        heads = jnp.asarray([not self.heads or i in self.heads for i in range(self.context.network[self._part].heads)])
        of = lambda number: lambda stream: self._groups(stream, apart)[number]
        return {self._part: Cut(of(target), of(source), blocks, heads)}

    def _there(self, params, batch) -> list[str]:
        """The groups of which there are tokens."""
        states = self.context.network
        last = [LAST] * states[states.together(self._names).part].at_end
        wanted = self.groups or (*self._names, SPECIAL, *last)
        network = nnx.merge(self.context.graph, params["model"])
        stream = jax.jit(lambda batch: compute(network, {"x": states.side_by_side(self._names)}, batch)["x"])(batch)
        some = np.asarray(self._groups(stream, LAST in wanted).any((1, 2)))
        found = [name for name in wanted if some[self._known.index(name)]]
        if lacking := [name for name in self.groups if name not in found]:
            self.fail("groups", f"no example of {self.splits} has tokens {lacking[0]!r}: leave them out")
        return found

    def _groups(self, stream, apart):
        """Which tokens are of each of `_known`, bool `[groups, B, N]`; apart: the last one is of no modality."""
        order = [m.name for m in self.context.modalities]
        valid, n = stream.valid, stream.valid.shape[1]
        last = valid & (jnp.arange(n) == n - 1 - jnp.argmax(valid[:, ::-1], axis=1)[:, None])
        others = valid & ~(last & apart)
        numbers = (*map(order.index, self._names), NO_MODALITY)
        return jnp.stack([*(others & (stream.modality == i) for i in numbers), last])

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(parts(self.modalities))

    @property
    def _known(self) -> tuple[str, ...]:
        return (*self._names, SPECIAL, LAST)

    @functools.cached_property
    def _part(self) -> str:
        """The encoder whose attention is cut."""
        return part_of(self.context.network, self._names)


def around(block: int, window: int, depth: int) -> np.ndarray:
    """Which blocks a window around one of them holds, bool `[depth]`; cut off at both ends."""
    first = block - window // 2
    return (np.arange(depth) >= first) & (np.arange(depth) < first + window)
