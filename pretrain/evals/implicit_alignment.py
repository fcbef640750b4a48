"""Are the tokens of two modalities, which stay apart, aligned all the same, layer by layer? (arXiv 2405.16700)"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.evals.base import Score, Task, Unfit, split_layer
from pretrain.evals.intervened import Probe, check_probe, part_of, sample
from pretrain.evals.knn import held_out, inputs
from pretrain.models.edits import Skip
from pretrain.models.passes import compute
from pretrain.models.stream import mean, unit

MODES = ("max", "mean", "median", "min", "max_mean")


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """Of each pair (perceptual, text) of modalities, the means over examples and layers of

    `alignment`: the cosine of the mean tokens of both, and `last layer`, of the last alone; `max` … `max_mean`: of the
    cosines of all pairs of tokens (max_mean: of each of the first its largest, their mean);
    `norm`: the length of a token, of each; `consecutive`: the cosine of a token with itself one layer later, of each.

    Where one encoder reads both, side by side, also `overlap`, and with a `label` the accuracy of a logistic regression
    on the pooled output where nobody skips anything, and where in every `stride`-th block tokens of the one, or of the
    other, skip its MLP (`skipped …`). overlap: the IoU of those weights of attention's input projection that matter to
    each most, the share `top` of |W_ij| · ‖x_i‖ (arXiv 2306.11695, equation 1), with its chance.
    """

    place = 84

    pairs: tuple[tuple[str, str], ...]
    label: str = ""
    stride: int = 2
    top: float = 0.5
    examples: int = 64
    decay: float = 0.01
    train: str = "train"
    splits: tuple[str, ...] = ("val", "test")
    seed: int = 0

    def __post_init__(self):
        self.check_names("pairs", {n for pair in self.pairs for n in pair})
        network = self.context.network
        for a, b in self.pairs:
            if "+" in a + b or any(split_layer(n)[1] is not None for n in (a, b)):
                self.fail("pairs", f"{a}~{b}: name single modalities, without a layer")
            if why := _unlike(network, a, b):
                self.fail("pairs", f"{a}~{b}: {why}")
        if self.label and not any(part_of(network, pair) for pair in self.pairs):
            self.fail("label", "skipping is tried where one encoder reads both of a pair: leave it out")
        if self.stride < 1:
            self.fail("stride", "must be at least 1")
        if not 0 < self.top < 1:
            self.fail("top", "must be between 0 and 1")
        check_probe(self)

    @staticmethod
    def default(context) -> dict:
        names, texts = inputs(context, len(context.modalities)), {m.name for m in context.modalities if m.text}
        pairs = [(a, b) for a in names for b in names if a not in texts and b in texts]
        pairs = [pair for pair in pairs if not _unlike(context.network, *pair)]
        if not pairs:
            raise Unfit("needs a text and another modality in encoders of one width and depth")
        label = context.labels[:1] if part_of(context.network, pairs[0]) else ()
        return dict(pairs=pairs[:1], label="".join(label), splits=held_out(context))

    def check(self):
        if self.label:
            self.context.classes(self.label, self.train, self.splits, f"{self.where}.label")

    def run(self, params):
        for a, b in self.pairs:
            found, pair = self._by_layer(params, (a, b)), f"{a}~{b}"
            yield f"{pair}/alignment", Score(found["alignment"].mean(), 0.0)
            yield f"{pair}/alignment, last layer", Score(found["alignment"][-1], 0.0)
            for mode in MODES:
                yield f"{pair}/{mode}", found[mode].mean()
            for name in (a, b):
                for what in ("norm", "consecutive"):
                    yield f"{pair}/{what} of {name}", found[f"{what} of {name}"].mean()
            if "overlap" in found:
                yield f"{pair}/overlap", Score(found["overlap"].mean(), self.top / (2 - self.top))
            if self.label and part_of(self.context.network, (a, b)):
                probe = Probe(self, params, f"{a}+{b}", functools.partial(self._skip, (a, b)))
                for i, name in enumerate(("nothing", a, b)):
                    yield f"{pair}/skipped {name}/{self.label}", probe.accuracy(probe(i))

    def figures(self, params, images):
        """What is told of every layer, of the first pair."""
        from pretrain.evals.pictures import curves

        a, b = self.pairs[0]
        found = self._by_layer(params, (a, b))
        for what, names in (("cosine", ("alignment", *MODES)), ("norm", ()), ("consecutive", ())):
            lines = {n: found[n] for n in names} or {n: found[f"{what} of {n}"] for n in (a, b)}
            title = dict(cosine="cosines of tokens", norm="lengths of tokens", consecutive="cosines one layer later")
            yield f"{a} and {b}: {title[what]}, by layer", curves(lines)

    def _skip(self, pair, which) -> dict:
        """{part: edit}; which: 0 nobody skips, 1 and 2 the tokens of the first and of the second do."""
        part = part_of(self.context.network, pair)
        one, two = map(self._number, pair)
        skipping = lambda s: s.valid & (((which == 1) & (s.modality == one)) | ((which == 2) & (s.modality == two)))
        blocks = jnp.arange(self.context.network[part].depth) % self.stride == self.stride - 1
        return {part: Skip(skipping, blocks)}

    def _number(self, name: str) -> int:
        return [m.name for m in self.context.modalities].index(name)

    def _by_layer(self, params, pair) -> dict:
        """{what: of every layer}, the mean over examples; "what of a modality" its own."""
        batch, together = sample(self, pair), bool(part_of(self.context.network, pair))
        return jax.device_get(self._measured(params, batch, pair, together))

    @functools.cached_property
    def _measured(self):
        return jax.jit(self._measure, static_argnums=(2, 3))

    def _measure(self, params, batch, pair, together):
        network = nnx.merge(self.context.graph, params["model"])
        sides = [pair, pair] if together else [(name,) for name in pair]
        nodes = {i: network.states.side_by_side(names) for i, names in enumerate(sides)}
        streams = compute(network, nodes, batch, layers=tuple(nodes.values()))
        masks = [streams[i].valid & (streams[i].modality == self._number(name)) for i, name in enumerate(pair)]
        layers = [streams[i].layers.astype(jnp.float32) for i in range(2)]
        found = jax.lax.map(lambda x: _cosines(*x, *masks), tuple(jnp.moveaxis(x, 1, 0) for x in layers))
        for name, x, mask in zip(pair, layers, masks):
            weights = (mask / mask.sum())[:, None]
            found[f"norm of {name}"] = (jnp.linalg.norm(x, axis=-1) * weights).sum((0, 2))
            found[f"consecutive of {name}"] = ((unit(x[:, 1:]) * unit(x[:, :-1])).sum(-1) * weights).sum((0, 2))
        attention = getattr(getattr(network, nodes[0].part).blocks, "attn", None)
        if together and layers[0].shape[1] > 1 and attention is not None:
            each = jax.tree.map(lambda p: p[1:], attention), jnp.moveaxis(layers[0], 1, 0)[:-1]
            found["overlap"] = jax.lax.map(lambda x: self._overlap(*x, *masks), each)
        return found

    def _overlap(self, attention, x, *masks):
        """IoU of the weights of a block's `qkv` that matter most to the tokens of a mask; x `[B, N, D]` enters it."""
        x, kernel = attention.norm(x), jnp.abs(attention.qkv.kernel[...])
        norms = [jnp.sqrt(jnp.square(x * mask[..., None]).sum((0, 1))) for mask in masks]
        a, b = (top_share(kernel * norm[:, None], self.top) for norm in norms)
        return (a & b).sum() / (a | b).sum()


def top_share(scores, share: float):
    """Which are among the largest, bool of their shape."""
    return scores > jnp.quantile(scores, 1 - share)


def _cosines(x, y, of_x, of_y) -> dict:
    """Means over examples; x, y `[B, N, D]` and `[B, M, D]`, of_x, of_y: which of their tokens count."""
    alignment = (unit(mean(x, of_x)) * unit(mean(y, of_y))).sum(-1).mean()
    cosine = jnp.einsum("bnd,bmd->bnm", unit(x), unit(y))
    cosine = jnp.where(of_x[:, :, None] & of_y[:, None, :], cosine, jnp.nan)
    pairs = cosine.reshape(len(x), -1)
    modes = {mode: getattr(jnp, f"nan{mode}")(pairs, axis=1).mean() for mode in MODES[:-1]}
    return dict(alignment=alignment, max_mean=jnp.nanmean(jnp.nanmax(cosine, axis=2), axis=1).mean()) | modes


def _unlike(network, a: str, b: str) -> str:
    """Why the layers of two modalities cannot be compared; "" where they can."""
    if part_of(network, (a, b)):
        return ""
    encoders = [part_of(network, (name,)) for name in (a, b)]
    if not all(encoders):
        return "the network pools no encoder's output of both"
    sizes = [(network[part].depth, network[part].dim) for part in encoders]
    return "" if sizes[0] == sizes[1] else f"their encoders differ in depth and width, {sizes[0]} and {sizes[1]}"
