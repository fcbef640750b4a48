"""What a network can do, as its parts say: nobody asks which network it is."""

import dataclasses

from data_pipeline.spec import Modality
from pretrain.models.parts.base import EMBEDDING, SCORES, STREAM, VECTOR, Config
from pretrain.models.passes import ONLINE, Call, Leaf, call
from pretrain.models.tokens import Renamed, Whole


@dataclasses.dataclass(frozen=True)
class States:
    """parts: ((name, Config), …) of a network, in its order; specs: of the modalities that it knows; model: the name
    under which nodes call it; reads: ((its name of a modality, the run's), …) of a model that another run trained.
    """

    parts: tuple[tuple[str, Config], ...] = ()
    specs: tuple[Modality, ...] = ()
    model: str = ONLINE
    reads: tuple[tuple[str, str], ...] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of those that it knows."""
        return tuple(m.name for m in self.specs)

    def called(self, modality: str) -> str:
        """What it calls a modality of the run."""
        return {ours: theirs for theirs, ours in self.reads or ()}.get(modality, modality)

    def leaf(self, make) -> Leaf:
        """The node of what a corruption of its modalities makes of the run's."""
        return Leaf(make if self.reads is None else Renamed(make, self.reads))

    def shown(self, *modalities: str) -> Leaf:
        """The node of modalities of the run side by side, all their tokens."""
        return self.leaf(Whole(tuple(map(self.called, modalities)), self.specs))

    def call(self, part: str, *args, **more) -> Call:
        """The node of a part's output (`passes.call`), of this model."""
        return call(part, *args, model=self.model, **more)

    def __getitem__(self, part: str) -> Config:
        return dict(self.parts)[part]

    def __contains__(self, part: str) -> bool:
        return part in dict(self.parts)

    def need(self, part: str, where: str) -> Config:
        """The part's Config; ValueError that names the key which asked for it, and the parts that there are."""
        if part not in self:
            known = ", ".join(name for name, _ in self.parts)
            raise ValueError(f"{where}={part!r}: the network has no such part; it has {known}")
        return self[part]

    def read_by(self, part: str) -> tuple[str, ...]:
        """The modalities that reach a part."""
        names = dict(self.parts)
        reads = names[part].reads
        if names[part].constant:
            return ()
        if not reads:
            return self.modalities
        found = [self.read_by(n) if n in names else (n,) for n in reads]
        return tuple(dict.fromkeys(m for ms in found for m in ms))

    def needs(self, part: str) -> tuple[str, ...]:
        """The modalities that a part is made of, all of them together; () of one that is made of any of several."""
        names = self.read_by(part)
        return names if len(names) == 1 or not any(self._serves(part, m) for m in names) else ()

    def below(self, part: str) -> list[str]:
        """The parts that it reads, but those that depend on no example."""
        return [name for name in self[part].reads if name in self and not self[name].constant]

    def fixed(self, part: str) -> list[Call]:
        """The nodes of those that it reads and that depend on no example: its last arguments."""
        return [self.call(n, *self.fixed(n)) for n in self[part].reads if n in self and self[n].constant]

    def chain(self, part: str, leaf: Leaf) -> Call:
        """The node of what a part makes of a leaf that is shown to the embedding at its beginning."""
        reads = self.below(part)
        return self.call(part, self.chain(reads[0], leaf) if reads else leaf, *self.fixed(part))

    def alone(self, part: str, modality: str, leaf: Leaf) -> Call:
        """The node of what a part makes of one modality. One that fills gaps (`Config.fills`) is called with those of
        its arguments that can be made of it, and is told by `given` which they are, where they are not all."""
        reads = self.below(part)
        there = [n for n in reads if self._serves(n, modality)]
        args = [self.alone(n, modality, leaf) for n in there] or [leaf]
        return self.call(part, *args, *self.fixed(part), given=None if there == reads else tuple(there))

    def over(self, part: str, given: dict) -> Call:
        """The node of what a part makes of several streams. given: {modality: what the embedding that reads it first
        is shown}, and {part: the node that stands for it}, instead of what the network would put there."""
        if part in given:
            return given[part]
        below = [self.over(name, given) for name in self.below(part)]
        return self.call(part, *(below or [given[self[part].reads[0]]]), *self.fixed(part))

    def joins(self, part: str) -> bool:
        """Whether `over` can make it of all the modalities that reach it: each has an embedding of its own."""
        below = self.below(part)
        return all(map(self.joins, below)) if below else len(self.read_by(part)) == 1

    @property
    def embeds(self) -> tuple[str, ...]:
        """The modalities of the run that have an embedding in the common space."""
        return self._run(m for m in self.modalities if self._first(m, EMBEDDING))

    @property
    def pooled_modalities(self) -> tuple[str, ...]:
        """The modalities of the run of which a part makes a vector, each alone."""
        return self._run(m for m in self.modalities if self._first(m, VECTOR))

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings; 0 if there are none."""
        return next((c.dim for _, c in self.parts if c.gives == EMBEDDING), 0)

    def embedding(self, modality: str, leaf: Leaf, early: Leaf | None = None, raw: bool | None = None) -> Call | None:
        """The node of a modality's embedding `[B, embed_dim]`, of unit length, or, raw, of the length that it has; None
        if it has none.

        early: a number `[B]`, the same of every example: that of an earlier layer (`parts.encoder`), None where there
        are no layers.
        """
        name = self.called(modality)
        last, pooled = self._first(name, EMBEDDING), self.pooled(modality, leaf, early)
        return self.call(last, pooled, modality=name, raw=raw) if last and pooled else None

    def pooled(self, modality: str, leaf: Leaf, early: Leaf | None = None) -> Call | None:
        """The node of what the projection of a modality reads, or would read, `[B, D]`."""
        pool, stream = self._pool(self.called(modality)), self.stream(modality, leaf)
        if not pool or not early:
            return self.alone(pool, self.called(modality), leaf) if pool else None
        if not self[stream.part].depth or self[pool].reads != (stream.part,):
            return None
        return self.call(pool, self.call(stream.part, stream, *self.fixed(stream.part), early))

    def stream(self, modality: str, leaf: Leaf) -> Call | None:
        """The node of the stream that is pooled of a modality, of several the first; None if none is."""
        name = self.called(modality)
        part = self._pool(name)
        while part and self[part].gives == VECTOR:
            part = next(n for n in self[part].reads if self._serves(n, name))
        return self.alone(part, name, leaf) if part else None

    def projected(self, modality: str, leaf: Leaf, raw: bool | None = None) -> Call | None:
        """The node of what the projection of a modality makes of each token, `[B, N, embed_dim]` of unit length, or,
        raw, of the length that it has; None if it has none, or one of another width. Tokens that stand for nothing,
        such as a class token, come first."""
        name, stream = self.called(modality), self.stream(modality, leaf)
        last = self._first(name, EMBEDDING)
        if not last or self[self[last].reads[0]].dim != self[stream.part].dim:
            return None
        return self.call(last, stream, modality=name, tokens=True, raw=raw)

    def encodes(self, names) -> str:
        """The part that gives a stream of several modalities side by side; "" if none reads them all."""
        for part, c in self.parts:
            joint = c.gives == STREAM and c.depth and len(self.below(part)) == 1
            if joint and self._joint(part) and set(names) <= set(self.read_by(part)):
                return part
        return ""

    def pools_together(self, names) -> str:
        """The part that pools modalities read side by side, and each alone; "" if none does."""
        pool = self.pools(part) if (part := self.encodes(names)) else ""
        return pool if pool and all(self._first(m, VECTOR) == pool for m in names) else ""

    def together(self, names) -> Call | None:
        """The node of the vector of all tokens of one modality, or of several that one encoder reads side by side, as
        one embedding takes them or behind embeddings of their own; None if no part makes one."""
        if len(names) == 1:
            return self.pooled(names[0], self.shown(*names))
        if pool := self.pools_together(names):
            return self.chain(pool, self.shown(*names))
        makes = lambda n, c: c.gives == VECTOR and len(self.below(n)) == 1 and set(self.read_by(n)) == set(names)
        pool = next((n for n, c in self.parts if makes(n, c) and self.joins(n)), "")
        return self.over(pool, {self.called(n): self.shown(n) for n in names}) if pool else None

    def side_by_side(self, names) -> Call | None:
        """The node of the stream of which `together` makes a vector; None if there is none."""
        if len(names) == 1:
            return self.stream(names[0], self.shown(*names))
        pooled = self.together(names)
        return pooled.args[0] if pooled else None

    def pools(self, part: str) -> str:
        """The part that pools the stream of another; "" if none does."""
        return next((n for n, c in self.parts if c.gives == VECTOR and c.reads[0] == part), "")

    @property
    def predicts(self) -> str:
        """The part that scores tokens; "" if none does."""
        return next((n for n, c in self.parts if c.gives == SCORES), "")

    def _run(self, names) -> tuple[str, ...]:
        """What the run calls modalities, those that it has."""
        names = tuple(names)
        return names if self.reads is None else tuple(ours for theirs, ours in self.reads if theirs in names)

    def _joint(self, part: str) -> bool:
        """Whether the embedding at its beginning takes several modalities side by side."""
        while below := self.below(part):
            part = below[0]
        return self[part].joint

    def _pool(self, modality: str) -> str:
        """The part that makes a vector of a modality: what its projection reads, if it has one; "" if none does."""
        last = self._first(modality, EMBEDDING)
        return self[last].reads[0] if last else self._first(modality, VECTOR)

    def _first(self, modality: str, gives: str) -> str:
        """The first part that gives something of a modality; "" if none does."""
        fits = (n for n, c in self.parts if c.gives == gives and modality in self.read_by(n))
        return next((n for n in fits if self._serves(n, modality)), "")

    def _serves(self, part: str, modality: str) -> bool:
        """Whether it can be made of a modality alone: what several streams were fused into can if each of them can."""
        below, enough = self.below(part), any if self[part].fills else all
        made = enough(self._serves(n, modality) for n in below) if below else modality in self.read_by(part)
        return made and self[part].serves(modality)
