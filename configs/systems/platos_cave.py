"""Escaping Plato's cave: 3D and text latent spaces (arXiv 2503.05283).

Carried: how well two spaces match after a map that is learned from a few partners, between the whole spaces and between
the directions in which they correlate (the task `subspace`).

Nothing is trained by the paper: CLIP's two towers (`configs/clip_b16.py`) stand for a network whose spaces are
compared, of pooled features and of the first layers, which no contrast has drawn together. `:tiny` is CLIP on emoji.
"""

from configs import clip_b16
from configs.common import check_arg
from configs.systems import Claim

CLAIM = Claim(
    says="Encoders of 3D shapes and of texts, each trained alone, align poorly as a whole, but well in a few chosen "
    "directions, in which retrieval and matching between them work.",
    formula="Canonical correlation on anchors, `C_aa^−½ C_ab C_bb^−½ = U S Vᵀ` with variances plus ρ of their mean; "
    "the first k directions of both sides, each weighed by √S; an affine map between them by least squares, R@1 by "
    "cosine. Local CKA of a pair: the linear CKA of the anchors and the pair as one more, of all pairs at once.",
    test="tests/evals/test_alignment.py::test_canonical_correlations_are_those_of_the_generalized_eigenproblem",
    experiment="platos_cave",
    control="affine",
    gate="Of two spaces that share 12 of their directions: CCA far above the affine map of the whole spaces and above "
    "PCA, local CKA better in CCA's directions, and 10 directions better than 5 and than 50.",
    out="Encoders of point clouds; matching sets without knowing any partner (quadratic assignment).",
)
APPROXIMATE = (
    "That the directions are CCA's, and the affine map and local CKA behind it, is from the abstract and third-party "
    "summaries: the code could not be read. The ridge, the weights by correlation and how k is chosen are ours.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    pairs = [("image", "text"), ("image:0", "text:0")]
    c.final_evals = dict(subspace=dict(pairs=pairs), diagnostics=dict(pairs=pairs))
    return c
