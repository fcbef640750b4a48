"""An encoder that says what its first token, a class token, looks at in every block."""

import dataclasses

from pretrain.models.blocks import MLP
from pretrain.models.blocks.watched import SelfAttention
from pretrain.models.parts import encoder
from pretrain.models.states import States


@dataclasses.dataclass(frozen=True)
class Config(encoder.Config):
    """As an encoder, whose parameters it has under the same names. Its stream's `aux` holds `first [B, depth, N]`: how
    much the first token attends to each, the mean over heads (`blocks.watched`)."""

    watches = True

    def branches(self, build):
        return {"attn": SelfAttention} | MLP

    def make(self, build, rngs):
        for key in ("causal", "registers", "slopes"):
            if getattr(self, key):
                build.fail(key, getattr(self, key), "what the first token looks at is told of a plain encoder alone")
        if not self.depth:
            build.fail("depth", 0, "there is no attention to tell of: take at least one block")
        return super().make(build, rngs)


def watched_below(network: States, part: str) -> str:
    """The first such encoder on the way down from a part; "" if there is none."""
    while not network[part].watches and len(below := network.below(part)) == 1:
        part = below[0]
    return part if network[part].watches else ""
