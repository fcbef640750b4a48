"""InfoNCE whose similarity compares tokens, and pools what comes out (late interaction)."""

import dataclasses

from pretrain.objectives import contrastive
from pretrain.objectives.edges import Edge  # noqa: F401 (an edge is part of this objective's config)
from pretrain.ops.token_pairs import late_similarity


@dataclasses.dataclass(frozen=True)
class Objective(contrastive.Objective):
    """As `contrastive`, with s_ij = mean_w max_r ⟨a_ir, b_jw⟩: each token w of b, such as a word, finds its best r of
    a, such as a patch (VG-BERT, arXiv 2111.07180; its release). Class tokens and padding take no part.

    Tokens are brought into the common space by the projection of their modality.
    normalise: to unit length. VG-BERT does not: similarities then grow with the width of the space and the length of
    what is learned, and one temperature does not fit another width.
    block: bounds `[block, B, tokens of a, tokens of b]`; with 0 the global batch has it whole.
    """

    normalise: bool = False

    score = staticmethod(late_similarity)

    def __post_init__(self):
        super().__post_init__()
        if self.branches:
            self.fail("branches", "leave them out: tokens of modalities are compared", "given")
        for m in self.embedded if self.network.parts else ():
            if self.network.projected(m, self.shown(m)) is None:
                self.fail("edges", f"the projection of {m!r} fits no single token: pool it by a mean, cls or map", m)

    def embedding(self, name, leaf):
        return self.network.projected(name, leaf, raw=not self.normalise or None)

    def totals(self, params, outputs, *, train, run):
        tokens = {}
        for name in self.ends:
            counted = outputs["shown", name].tokens.valid
            tokens["z", name] = outputs["z", name][:, -counted.shape[1] :], counted
        return super().totals(params, outputs | tokens, train=train, run=run)
