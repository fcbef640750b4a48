"""What a teacher says of the masked patches of a picture, predicted from the others (EVA, arXiv 2211.07636)."""

import dataclasses

import jax
import jax.numpy as jnp

from pretrain.models.parts.base import STREAM
from pretrain.models.parts.predict import NUMBERS
from pretrain.models.passes import Leaf
from pretrain.models.stream import unit
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.blocks import Blocked, Blocks
from pretrain.schedule import Coefficient


@dataclasses.dataclass(frozen=True)
class Objective:
    """−mean over masked patches of cos(W h_i, t_i) (section 2.2).

    h_i: what the stream that `head` reads says of a patch whose place holds a mask token. t_i: what the teacher's
    projection makes of its token of that patch, behind its last norm, of the whole picture in the teacher's own
    normalisation, without gradient. Tokens before the patches, such as class tokens, are no targets.

    modality: the pictures. head: a `parts.predict`, W, as wide as the teacher's embeddings. masked: which patches.
    teacher: a model of the run (`config.references`); "" for the patches' own normalised pixels, to compare with.
    drop_path: rate of the last block in training (`stack.drop_path`).
    """

    context: Context
    modality: str
    head: str
    masked: Blocks
    teacher: str = ""
    drop_path: float = 0.0
    coef: Coefficient = 1.0

    scope = EXAMPLE
    embedded = ()

    def __post_init__(self):
        specs, network = {m.name: m for m in self.context.modalities}, self.context.network
        if self.modality not in specs or not (specs[self.modality].pictures and specs[self.modality].grid):
            self.fail("modality", f"must be pixels in patches; the run has {', '.join(specs)}")
        head = network.need(self.head, "objectives.feature_regression.head")
        reads = next((name for name in head.reads if name in network), "")
        if head.gives != NUMBERS or not reads or network[reads].gives != STREAM:
            self.fail("head", "name a `predict` of a stream")
        first = reads
        while network[first].reads and network[first].reads[0] in network:
            first = network[first].reads[0]
        if self.modality not in network.read_by(first) or not network[first].masks:
            self.fail("head", f"it starts from {first!r}: let that embed {self.modality!r}, with masks=True")
        self._check_target(head.dim)
        m, length = self.masked, specs[self.modality].length
        for key, fits, remedy in (
            ("count", 0 < m.count < length, f"must be above 0 and below the {length} patches of {self.modality!r}"),
            ("smallest", 0 < m.smallest <= m.count, "must be above 0, and at most count"),
            ("aspect", 0 < m.aspect <= 1, "must be above 0 and at most 1, for squares"),
            ("attempts", m.attempts > 0, "must be at least 1"),
        ):
            if not fits:
                self.fail(f"masked.{key}", remedy, getattr(m, key))
        if not 0 <= self.drop_path < 1:
            self.fail("drop_path", "must be at least 0 and below 1")

    def _check_target(self, given: int):
        width, teacher = self.spec.width, self._teacher
        if teacher:
            theirs = {m.name: m for m in teacher.specs}.get(teacher.called(self.modality))
            if self.modality not in teacher.embeds:
                has = ", ".join(teacher.embeds) or "nothing"
                self.fail("teacher", f"it projects no {self.modality!r} of the run, but {has}; see its `reads`")
            if theirs.grid != self.spec.grid:
                self.fail("teacher", f"it sees patches {theirs.grid}, the run {self.spec.grid}: choose a `patch` alike")
            width = teacher.embed_dim
        if given != width:
            self.fail("head", f"it gives {given} numbers, but targets have {width}: set its dim")

    def fail(self, key, remedy, value=None):
        value = getattr(self, key) if value is None else value
        raise ValueError(f"objectives.feature_regression.{key}={value!r}: {remedy}")

    @property
    def spec(self):
        return next(m for m in self.context.modalities if m.name == self.modality)

    @property
    def _teacher(self):
        """What the teacher states; None without one."""
        return self.context.model(self.teacher, "objectives.feature_regression.teacher") if self.teacher else None

    @property
    def tokens_per_example(self) -> int:
        return self.spec.length

    def init(self, key) -> dict:
        return {}

    def passes(self, train: bool) -> dict:
        """Numbers that are found, what they should be, and which patches count."""
        network, teacher = self.context.network, self._teacher
        mask = Blocked(self.modality, self.masked, self.context.modalities)
        stream = network.chain(network[self.head].reads[0], Leaf(mask, "shown"))
        if train and self.drop_path:
            stream = network.call(stream.part, *stream.args, drop=self.drop_path)
        out = {"found": network.call(self.head, stream), "chosen": Leaf(mask, "chosen")}
        if teacher is None:
            return out | {"whole": network.shown(self.modality)}
        return out | {"target": teacher.projected(self.modality, teacher.shown(self.modality))}

    def weights(self, data) -> dict:
        return {"neg_cos": data["chosen"].sum().astype(jnp.float32)}

    def totals(self, params, outputs, *, train, run) -> dict:
        chosen = outputs["chosen"]
        target = outputs["target"] if self.teacher else outputs["whole"].dense[self.modality]
        patches = lambda x: unit(x[:, -chosen.shape[1] :].astype(jnp.float32))
        cos = (patches(outputs["found"]) * jax.lax.stop_gradient(patches(target))).sum(-1)
        return {"neg_cos": -jnp.where(chosen, cos, 0.0).sum()}

    def loss_weight(self, name) -> float:
        return 1.0
