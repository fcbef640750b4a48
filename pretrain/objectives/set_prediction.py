"""Objects that a text names, found as a set: boxes and the tokens that name them (MDETR, arXiv 2104.12763)."""

import dataclasses

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.parts.base import STREAM
from pretrain.models.parts.predict import NUMBERS
from pretrain.models.passes import Leaf
from pretrain.models.stream import unit
from pretrain.models.tokens import Whole
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.corruptions import Entry
from pretrain.ops.assignment import assign
from pretrain.ops.boxes import centred, corners, overlaps
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Align:
    """Contrast of the queries that found an object with the tokens that name it (section 2.2.2).

    queries, tokens: parts (`predict`) that project the queries, and the encoder's tokens, to as many numbers.
    mask_pad: whether the empty slots of a text are left out of the denominator, where the release keeps them.
    """

    queries: str
    tokens: str
    temperature: float = 0.07
    weight: float = 1.0
    mask_pad: bool = True


@dataclasses.dataclass(frozen=True)
class Objective:
    """Σ over the decoder's layers of (tokens + 5 · l1 + 2 · giou + align), each / the boxes of the global batch, ≥ 1.

    Every layer's queries are matched to the boxes at the least cost −⟨softmax(logits), m_t⟩ + 5 · |b − b_t| −
    2 · GIoU(b, b_t) (`ops.assignment`; no gradient), m_t the token map of box t, of sum 1. tokens: −⟨m_t, log p⟩ of
    matched queries; of the others −log p of the last position, "no object", · .1. l1: of centre and size. giou:
    1 − GIoU. align: of matched queries q and of tokens n, log Σ_n exp(q·n / T) − mean of q·n / T over the tokens that
    name the box, and the same over queries for each such token, / 2. Sections 2.1 and 2.2; weights of its release.
    Beside it the `iou` of the last layer's matched boxes.

    inputs: the modalities that are shown, whole. text: of these the one whose tokens name objects. boxes, phrases: the
    labels that say where objects lie (kind `boxes`) and what names each (kind `phrases`).
    box_head: the part that gives four numbers in 0…1 of each query, box centre and size (`mlp` with final="sigmoid");
    token_head: a `predict` of the positions of the text, and of no object.
    l1, giou: weights of these two, in the cost and in the loss alike.
    """

    context: Context
    inputs: tuple[str, ...]
    text: str
    boxes: str
    phrases: str
    box_head: str
    token_head: str
    align: Align | None = None
    l1: float = 5.0
    giou: float = 2.0
    no_object: float = 0.1
    coef: Coefficient = 1.0

    scope, embedded = EXAMPLE, ()

    def __post_init__(self):
        specs, labels = {m.name: m for m in self.context.modalities}, {m.name: m for m in self.context.labels}
        if not self.inputs or not set(self.inputs) <= specs.keys():
            self.fail("inputs", self.inputs, f"must be of the run's modalities, {', '.join(specs)}")
        if self.text not in self.inputs or not specs[self.text].text:
            self.fail("text", self.text, f"name a text of inputs={self.inputs}")
        for key in ("boxes", "phrases"):
            fitting = [name for name, m in labels.items() if m.kind == key]
            if getattr(self, key) not in fitting:
                known = ", ".join(fitting) or "none"
                self.fail(key, getattr(self, key), f"no labels of kind {key!r} in config.labels; there are: {known}")
        boxes, phrases = labels[self.boxes], labels[self.phrases]
        if phrases.width != boxes.length:
            self.fail("phrases", self.phrases, f"of {phrases.width} objects, but {self.boxes!r} has {boxes.length}")
        for key in ("l1", "giou", "no_object"):
            if getattr(self, key) < 0:
                self.fail(key, getattr(self, key), "must not be negative")
        if self.context.network.parts:
            self._check_parts(specs[self.text], boxes, phrases)

    def _check_parts(self, text: Modality, boxes: Modality, phrases: Modality):
        network = self.context.network
        box, token = (network.need(getattr(self, k), f"{self.where}.{k}") for k in ("box_head", "token_head"))
        if box.gives != STREAM or box.dim != 4:
            self.fail("box_head", self.box_head, "must give four numbers of each query: an `mlp` with dim=4")
        if token.gives != NUMBERS or token.dim <= phrases.length:
            least = phrases.length + 1
            self.fail("token_head", self.token_head, f"must be a `predict` of dim={least} or more, no object last")
        decoder = network[self.token_head].reads[0]
        if decoder not in network or not network[decoder].queries:
            self.fail("token_head", self.token_head, f"reads {decoder!r}: let it read a `query_decoder`")
        if box.reads != token.reads:
            self.fail("box_head", self.box_head, f"must read {decoder!r}, as {self.token_head!r} does")
        if network[decoder].queries < boxes.length:
            self.fail("boxes", self.boxes, f"{boxes.length} of an example; {decoder!r} has {network[decoder].queries} "
                      "queries: give it as many or more")  # fmt: skip
        if missing := set(self.inputs) - set(network.read_by(decoder)):
            self.fail("inputs", self.inputs, f"{decoder!r} never reads {', '.join(sorted(missing))}")
        if self.align:
            self._check_align(decoder, text, phrases)

    def _check_align(self, decoder: str, text: Modality, phrases: Modality):
        network, c = self.context.network, self.align
        queries, tokens = (network.need(getattr(c, k), f"{self.where}.align.{k}") for k in ("queries", "tokens"))
        if queries.reads != (decoder,):
            self.fail("align.queries", c.queries, f"must read {decoder!r}")
        if tokens.reads != network[decoder].reads:
            self.fail("align.tokens", c.tokens, f"must read {network[decoder].reads[0]!r}, as {decoder!r} does")
        if queries.dim != tokens.dim or {queries.gives, tokens.gives} != {NUMBERS}:
            self.fail("align.tokens", c.tokens, f"must be a `predict` of as many numbers as {c.queries!r}")
        if (phrases.length, phrases.tokenizer) != (text.length, text.tokenizer):
            self.fail("phrases", self.phrases, f"must have the length and the tokenizer of {self.text!r}: "
                      f"{text.length}, {text.tokenizer!r}")  # fmt: skip
        if c.temperature <= 0:
            self.fail("align.temperature", c.temperature, "must be above 0")
        if c.weight < 0:
            self.fail("align.weight", c.weight, "must not be negative")

    @property
    def where(self) -> str:
        return f"objectives.{type(self).__module__.rpartition('.')[2]}"

    def fail(self, key, value, remedy):
        raise ValueError(f"{self.where}.{key}={value!r}: {remedy}")

    @property
    def tokens_per_example(self) -> int:
        return sum(m.length for m in self.context.modalities if m.name in self.inputs)

    @property
    def decoder(self) -> str:
        return self.context.network[self.token_head].reads[0]

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        """Data, and of every layer of the decoder boxes, logits and projections."""
        network, shown = self.context.network, self.shown
        last = network.over(self.decoder, shown)
        depth = network[self.decoder].depth
        layers = [network.call(self.decoder, last, layer=i) for i in range(depth - 1)] + [last]
        heads = dict(boxes=self.box_head, logits=self.token_head) | (dict(z=self.align.queries) if self.align else {})
        found = {(key, i): network.call(part, x) for key, part in heads.items() for i, x in enumerate(layers)}
        labels = dict(where=Leaf(Entry(self.boxes)), named=Leaf(Entry(self.phrases)))
        if self.align:
            (encoder,) = network[self.decoder].reads
            found |= dict(tokens=network.over(self.align.tokens, shown), encoded=network.over(encoder, shown))
        return found | labels | {("shown", name): leaf for name, leaf in shown.items()}

    def found(self) -> dict:
        """What the last layer finds, and what is to be found: nodes of logits `[B, Q, P]`, boxes, a Stream of
        `[B, Q, 4]`, centre and size, where `[B, T, 4]` of corners, valid `[B, T]`, phrases `[B, L, T]`."""
        network, entry = self.context.network, lambda name, item: Leaf(Entry(name), item)
        last = network.over(self.decoder, self.shown)
        return dict(
            logits=network.call(self.token_head, last), boxes=network.call(self.box_head, last),
            where=entry(self.boxes, "vectors"), valid=entry(self.boxes, "valid"),
            phrases=entry(self.phrases, "vectors"),
        )  # fmt: skip

    @property
    def shown(self) -> dict:
        """{input: what the network is shown of it}."""
        return {name: Leaf(Whole((name,), self.context.modalities)) for name in self.inputs}

    def weights(self, data) -> dict:
        _, valid = self._known(data)
        boxes = jnp.maximum(valid.sum(), 1).astype(jnp.float32)
        return dict.fromkeys(("tokens", "l1", "giou", "iou", *(("align",) if self.align else ())), boxes)

    def totals(self, params, outputs, *, train, run) -> dict:
        shown, valid = self._known(outputs)
        stacked = lambda key, of: jnp.stack([of(outputs[k]) for k in sorted(k for k in outputs if k[0] == key)], axis=1)
        logits, boxes = stacked("logits", lambda x: x), stacked("boxes", lambda s: s.x)
        wanted, named = centred(outputs["where"]["vectors"]), self._named(outputs)
        token_map = jnp.pad(named, ((0, 0), (0, 0), (0, logits.shape[-1] - named.shape[-1])))
        token_map = token_map / (token_map.sum(-1, keepdims=True) + 1e-6)
        log_p = jax.nn.log_softmax(logits)
        at = assign(self._cost(log_p, boxes, token_map, wanted), valid[:, None])
        matched = jax.nn.one_hot(at, logits.shape[2]) * valid[:, None, :, None]  # [B, layers, T, Q]
        counted, of_matched = valid[:, None], lambda x: jnp.take_along_axis(x, at[..., None], axis=2)
        nll = -(of_matched(log_p) * token_map[:, None]).sum(-1)
        empty = jnp.where(shown[:, None, None], 1 - matched.sum(2), 0.0) * -log_p[..., -1]
        found = of_matched(boxes)
        iou, giou = overlaps(corners(found), corners(wanted)[:, None])
        total = lambda x: jnp.where(counted, x, 0.0).sum()
        out = dict(
            tokens=total(nll) + self.no_object * empty.sum(), l1=total(jnp.abs(found - wanted[:, None]).sum(-1)),
            giou=total(1 - giou), iou=jnp.where(valid, iou[:, -1], 0.0).sum(),
        )  # fmt: skip
        if self.align:
            out["align"] = self._aligned(outputs, stacked("z", lambda x: x), matched, named)
        return out

    def loss_weight(self, name) -> float:
        align = self.align.weight if self.align else 0.0
        return dict(tokens=1.0, l1=self.l1, giou=self.giou, align=align, iou=0.0)[name]

    def _known(self, data):
        """Which examples are shown `[B]`, and which boxes are looked for `[B, T]`."""
        shown = jnp.stack([data["shown", name].tokens.valid.any(1) for name in self.inputs]).all(0)
        return shown, data["where"]["valid"] & shown[:, None]

    @staticmethod
    def _named(data):
        """1 for the tokens that name each box, `[B, T, L]`."""
        return jnp.swapaxes(data["named"]["vectors"], 1, 2)

    def _cost(self, log_p, boxes, token_map, wanted):
        """`[B, layers, Q, T]`."""
        tokens = jnp.einsum("bdqp,btp->bdqt", jnp.exp(log_p), token_map)
        one, other = boxes[:, :, :, None], wanted[:, None, None]
        _, giou = overlaps(corners(one), corners(other))
        return -tokens + self.l1 * jnp.abs(one - other).sum(-1) - self.giou * giou

    def _aligned(self, outputs, queries, matched, named):
        """queries `[B, layers, Q, D]`, matched `[B, layers, T, Q]`, named `[B, T, L]` → the sum over everything."""
        c, encoded = self.align, outputs["encoded"]
        mine = encoded.modality == [m.name for m in self.context.modalities].index(self.text)
        place = jnp.where(mine, encoded.position, 0)
        named = jnp.take_along_axis(named, place[:, None], axis=2) * (mine & encoded.valid)[:, None]
        positive = jnp.einsum("bdtq,btn->bdqn", matched, named) > 0
        logits = jnp.einsum("bdqc,bnc->bdqn", unit(queries), unit(outputs["tokens"])) / c.temperature
        among = mine & encoded.valid if c.mask_pad else mine
        among = jnp.where(among.any(1, keepdims=True), among, True)[:, None, None]  # of no text nothing is positive

        def one_way(axis, among):
            count = positive.sum(axis)
            mean = jnp.where(positive, logits, 0.0).sum(axis) / jnp.maximum(count, 1)
            return jnp.where(count > 0, jax.nn.logsumexp(logits, axis=axis, where=among) - mean, 0.0).sum()

        return (one_way(3, among) + one_way(2, jnp.ones_like(among))) / 2
