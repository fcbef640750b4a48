"""Several networks that sample as one: a base model, then one that makes finer tokens of what it made."""

from collections.abc import Sequence

from pretrain.generate.chain import Generator, Target


class Relay:
    """Each target is made by the first network that predicts it, from what that one reads of all that is there.

    So tokens of 224 pixels become those of 448 by a super-resolution model (4M, arXiv 2312.06647). ValueError
    if two networks mean different things by one name.
    """

    def __init__(self, generators: Sequence[Generator]):
        self.generators = tuple(generators)
        known = {}
        for generator in self.generators:
            for m in generator.modalities:
                ours = known.setdefault(m.name, m)
                if (ours.kind, ours.shape, ours.vocab_size) != (m.kind, m.shape, m.vocab_size):
                    raise ValueError(
                        f"modality {m.name!r}: {ours.kind} {ours.shape} of {ours.vocab_size} in one model, {m.kind} "
                        f"{m.shape} of {m.vocab_size} in another: tokens of one are nothing to the other"
                    )
        self._known = known

    def __call__(self, batch: dict, given: Sequence[str], targets: Sequence[Target], *, seed=0, sample=0) -> dict:
        """As `Generator`."""
        batch, made, given = dict(batch), {}, list(given)
        plan = [self._maker(t.name) for t in targets]
        for name in given:
            if not any(name in _reads(g) or name == t.name for g, t in zip(plan, targets)):
                raise ValueError(f"given {name!r}: none of the models that make these targets reads it")
        for generator, target in zip(plan, targets):
            seen = [n for n in given if n in _reads(generator) or n == target.name]
            made |= generator(batch, seen, [target], seed=seed, sample=sample)
            batch |= made
            given = [*(n for n in given if n != target.name), target.name]
        return made

    def _maker(self, name: str) -> Generator:
        for generator in self.generators:
            if any(m.name == name and m.targets for m in generator.modalities):
                return generator
        reason = "they only read it (targets=False)" if name in self._known else f"they have {', '.join(self._known)}"
        raise ValueError(f"target {name!r}: none of the models predicts it: {reason}")


def _reads(generator: Generator) -> set[str]:
    return {m.name for m in generator.modalities if m.inputs}
