"""A transformer of which every modality has MLPs of its own (SkillNet, arXiv 2205.06126)."""

import dataclasses
import functools

from pretrain.models.blocks import ENCODER
from pretrain.models.blocks.skills import Skills
from pretrain.models.parts import base, encoder
from pretrain.models.states import States


@dataclasses.dataclass(frozen=True)
class Skill:
    """An MLP in every block, which the tokens of some modalities pass through."""

    name: str
    modalities: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Config(encoder.Config):
    """As an encoder: attention is common to all modalities, and `skills` are in the place of the MLP.

    skills: () for one a modality, of its name. A token passes through all skills of its modality, and takes their mean.
    Registers are of no modality: they only attend.
    """

    skills: tuple[Skill, ...] = ()

    def branches(self, build):
        given = self._given(build)
        names = tuple(s.name for s in given)
        route = [[i for i, s in enumerate(given) if m.name in s.modalities] for m in build.modalities]
        most = max(map(len, route))
        route = tuple((*found, *[-1] * (most - len(found))) for found in route)
        return {"attn": ENCODER["attn"], "skills": functools.partial(Skills, names=names, route=route)}

    def _given(self, build: base.Build) -> tuple[Skill, ...]:
        """The skills; ValueError where they do not fit the modalities that reach this part."""
        network = States(tuple(build.parts.items()), build.modalities)
        reached = network.read_by(build.name)
        skills = self.skills or tuple(Skill(m, (m,)) for m in reached)
        names = [s.name for s in skills]
        for s in skills:
            if names.count(s.name) > 1:
                build.fail("skills", s.name, "two skills have this name: give them two, or one with both lists")
            if not s.modalities:
                build.fail("skills", s.name, "modalities=() would never train it: name some, or leave it out")
            for m in s.modalities:
                if m not in reached:
                    build.fail("skills", s.name, f"no modality {m!r} reaches this part, but {', '.join(reached)}")
        for m in reached:
            if not any(m in s.modalities for s in skills):
                build.fail("skills", tuple(names), f"modality {m!r} has no skill: add it to the modalities of one")
        return skills
