"""A text and a picture, or its objects, masked, and in some pairs mismatched: what LXMERT's objectives are shown."""

import dataclasses

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.parts.base import VECTOR
from pretrain.models.parts.predict import NUMBERS
from pretrain.models.passes import Leaf
from pretrain.models.tokens import Shown, dense_rows, whole
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.ops.keys import named
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Corruption:
    """The same of every objective that shares a pass: say it once in a config, and give it to each.

    text, objects, boxes: the modalities; boxes are never masked. A picture itself may be in the place of the objects,
    whose patches then are what they are; boxes: "" of what needs none, since its tokens say where they lie.
    words, regions: the share of words and of objects that are masked; mismatched: of pairs whose text is another's.
    least: whether of every text a word is masked: the first, where none was drawn, as in IRRA's release (arXiv
    2303.12501).
    negatives: the entry of a batch that the texts of mismatched pairs come from, such as `caption/swapped`, which the
    transform `swapped_text` writes; "" for the texts of other examples.
    mask_id: the token that stands for a masked word; special: those that are never masked, such as the end of a text.
    """

    text: str
    objects: str
    boxes: str = ""
    mask_id: int = dataclasses.field(kw_only=True)
    words: float = 0.15
    least: bool = False
    regions: float = 0.15
    mismatched: float = 0.5
    negatives: str = ""
    special: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Corrupted:
    """What is made of a batch, after the release of LXMERT (arXiv 1908.07490, section 3.1):

    {"text": Shown, "objects": Shown: what is seen; "words": {"ids", "chosen"} `[B, L]`: the words of the text that is
    shown, and which of them are to be predicted; "features" `[B, M, width]`, what the objects were; "regions" `[B, M]`:
    which of them are to be predicted; "matched", "paired" `[B]`: whether the text is the objects' own, and whether an
    example has both}.

    Of chosen words 8 in 10 become the mask, 1 a random token, 1 stays; of chosen objects 8 become zeros, 1 those of
    another example, 1 stays. Words are masked in mismatched texts, too. A text is no mismatch that says the same, or is
    of the same objects, or that nobody has: such a pair stays as it is, and counts as matched.
    """

    how: Corruption
    modalities: tuple[Modality, ...]

    def __call__(self, batch, keys) -> dict:
        c, size = self.how, len(keys)
        specs = {m.name: m for m in self.modalities}
        text, objects = (whole(batch, name, self.modalities) for name in (c.text, c.objects))
        rows = dense_rows(batch, [specs[name] for name in (c.objects, c.boxes) if name])
        # One shift for all: every other example is as likely, and a sharded batch is moved as a whole.
        shift = 1 + jax.random.randint(named(keys[0], "paired", "shift"), (), 0, max(size - 1, 1))
        other = lambda x: jnp.roll(x, shift, axis=0)
        text, matched = self._mismatch(batch, keys, text, rows[c.objects], other)
        words, ids = self._words(keys, text, specs[c.text].vocab_size)
        regions, features = self._regions(keys, objects, rows[c.objects], other)
        return {
            "text": Shown(text._replace(ids=ids), {}),
            "objects": Shown(objects, rows | {c.objects: features}),
            "words": {"ids": text.ids, "chosen": words},
            "features": rows[c.objects],
            "regions": regions,
            "matched": matched,
            "paired": text.valid.any(1) & objects.valid.any(1),
        }

    def _mismatch(self, batch, keys, text, features, other):
        """(the texts that are shown, whether each is the example's own `[B]`)."""
        theirs = jax.tree.map(other, text)
        same = (other(features) == features).all((1, 2))
        if self.how.negatives:
            entry = batch[self.how.negatives]
            theirs = text._replace(ids=entry["ids"].astype(jnp.int32), valid=entry["valid"])
            same = jnp.zeros_like(same)
        ours = jnp.where(text.valid, text.ids, -1)
        same |= (ours == jnp.where(theirs.valid, theirs.ids, -1)).all(1)
        toss = jax.vmap(lambda key: jax.random.bernoulli(key, self.how.mismatched))
        swap = toss(named(keys, "paired", "mismatched")) & text.valid.any(1) & theirs.valid.any(1) & ~same
        return jax.tree.map(lambda a, b: jnp.where(swap[:, None], b, a), text, theirs), ~swap

    def _words(self, keys, text, vocab_size: int):
        """(which words are to be predicted, the ids that are shown), `[B, L]`."""
        may = text.valid & ~jnp.isin(text.ids, jnp.asarray(self.how.special, jnp.int32))
        chosen, masked, random = _draw(named(keys, "paired", "words"), may, self.how.words)
        if self.how.least:
            first = ~chosen.any(1, keepdims=True) & may & (may.cumsum(1) == 1)
            chosen, masked = chosen | first, masked | first
        draw = lambda key: jax.random.randint(named(key, "ids"), text.ids.shape[1:], 0, vocab_size)
        ids = jnp.where(masked, self.how.mask_id, text.ids)
        return chosen, jnp.where(random, jax.vmap(draw)(named(keys, "paired", "words")), ids)

    def _regions(self, keys, objects, features, other):
        """(which objects are to be predicted `[B, M]`, the features that are shown)."""
        chosen, masked, random = _draw(named(keys, "paired", "regions"), objects.valid, self.how.regions)
        theirs = jnp.where((random & other(objects.valid))[..., None], other(features), features)
        return chosen, jnp.where(masked[..., None], 0.0, theirs)


def _draw(keys, may, rate: float):
    """(chosen, of these masked, of these random) `[B, N]`: each of what `may` be with this probability, 80 and 10 % of
    them (BERT, arXiv 1810.04805, section 3.1)."""
    number = jax.vmap(lambda key: jax.random.uniform(key, may.shape[1:]))(keys)
    chosen = may & (number < rate)
    part = number / max(rate, 1e-9)
    return chosen, chosen & (part < 0.8), chosen & (part >= 0.8) & (part < 0.9)


@dataclasses.dataclass(frozen=True)
class Paired:
    """What objectives over such pairs share.

    shown: what is done to them. head: the part of the network that predicts.
    """

    context: Context
    shown: Corruption
    head: str
    coef: Coefficient = dataclasses.field(default=1.0, kw_only=True)

    scope, embedded = EXAMPLE, ()
    gives, of = NUMBERS, VECTOR  # what the head gives, and of what

    def __post_init__(self):
        c, specs = self.shown, {m.name: m for m in self.context.modalities}
        fits = {
            "text": ("text", lambda m: m.text),
            "objects": ("modality of vectors or of readable pixels", lambda m: m.dense and m.readable),
            "boxes": ("modality of vectors", lambda m: m.form == "vectors"),
        }
        for key, (kind, fit) in fits.items():
            name = getattr(c, key)
            if (name or key != "boxes") and (name not in specs or not fit(specs[name])):
                self.fail(f"shown.{key}", name, f"no {kind} of the run, which has {', '.join(specs)}")
        for key in ("words", "regions", "mismatched"):
            if not 0 <= getattr(c, key) < 1:
                self.fail(f"shown.{key}", getattr(c, key), "must be at least 0 and below 1")
        size = specs[c.text].vocab_size
        if not 0 <= c.mask_id < size or c.mask_id in c.special:
            self.fail("shown.mask_id", c.mask_id, f"must be a token of {c.text!r}, 0…{size - 1}, and no special one")
        if c.negatives and c.negatives.partition("/")[0] != c.text:
            self.fail("shown.negatives", c.negatives, f"must be {c.text}/VARIANT, which a transform writes, or ''")
        if c.negatives:
            self.context.variant(c.text, c.negatives.partition("/")[2], f"{self.where}.shown.negatives")
        if self.context.network.parts:
            self._check_head()

    def _check_head(self):
        network = self.context.network
        head = network.need(self.head, f"{self.where}.head")
        of = next((network[name].gives for name in head.reads if name in network), "modality")
        if (head.gives, of) != (self.gives, self.of):
            remedy = f"it gives {head.gives} of a {of}; name a part that gives {self.gives} of a {self.of}"
            self.fail("head", self.head, remedy)
        self.check_head(head)

    def check_head(self, head):
        """ValueError for a head that does not give as many numbers as are compared."""

    @property
    def where(self) -> str:
        return f"objectives.{type(self).__module__.rpartition('.')[2]}"

    def fail(self, key, value, remedy):
        raise ValueError(f"{self.where}.{key}={value!r}: {remedy}")

    def spec(self, name: str) -> Modality:
        return next(m for m in self.context.modalities if m.name == name)

    @property
    def tokens_per_example(self) -> int:
        return self.spec(self.shown.text).length + self.spec(self.shown.objects).length

    def init(self, key) -> dict:
        return {}

    def leaf(self, item: str) -> Leaf:
        return Leaf(Corrupted(self.shown, self.context.modalities), item)

    def over(self, part: str):
        """The node of a part that reads, at last, the pair."""
        leaves = {self.shown.text: self.leaf("text"), self.shown.objects: self.leaf("objects")}
        return self.context.network.over(part, leaves)

    def loss_weight(self, name) -> float:
        return float(name != "accuracy")


@dataclasses.dataclass(frozen=True)
class Labelled(Paired):
    """Those that predict one of some classes. label: the name of the run's labels; head: a `parts.predict`."""

    label: str = dataclasses.field(kw_only=True)

    form = "ids"  # of these labels

    def __post_init__(self):
        known = {m.name: m for m in self.context.labels if m.form == self.form and m.vocab_size}
        if self.label not in known:
            self.fail("label", self.label, f"no such labels in config.labels; there are {', '.join(known) or 'none'}")
        super().__post_init__()
        if known[self.label].length != self.labels:
            self.fail("label", self.label, f"{known[self.label].length} an example, where {self.labels} are predicted")

    @property
    def labels(self) -> int:
        """How many an example has."""
        return 1

    def check_head(self, head):
        classes = next(m.vocab_size for m in self.context.labels if m.name == self.label)
        if head.dim != classes:
            self.fail("head", self.head, f"gives {head.dim} numbers, but {self.label!r} has {classes} classes: set dim")


def cross_entropy(logits, labels):
    """−log p of labels `[…]` under logits `[…, classes]`, and whether they are the likeliest."""
    nll = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return {"nll": nll, "accuracy": logits.argmax(-1) == labels}
