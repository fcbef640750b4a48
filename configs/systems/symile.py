"""Symile (arXiv 2411.01053).

Carried: the multilinear score of three or more modalities with shuffled negatives, learned vectors in the place of
modalities that an example lacks. The settings are those of `configs/symile.py`, `:tiny` too.
"""

from configs import symile
from configs.systems import Claim

CLAIM = Claim(
    says="A multilinear contrastive score captures what three or more modalities say only together, which pairwise "
    "CLIP misses.",
    formula="`MIP(x_1 … x_M) = Σ_d Π_m x_m[d]` of unit vectors. For each anchor m, logits whose diagonal is the MIP of "
    "an example's own tuple and whose entry (i, j) is `⟨x_i, Π_{k≠m} x_k[π_k(j)]⟩`, permutations π independent; "
    "cross-entropy of `e^s · logits`, averaged over anchors. `n2`: all products of the two others.",
    test="tests/objectives/test_cross.py::test_symile_equals_numpy",
    experiment="symile_xor",
    control="pairwise CLIP",
    gate="c = a XOR b: Symile retrieves c in more than 99 % of cases, pairwise CLIP in less than twice chance.",
    out="The multilingual and the clinical data sets; projections with a norm.",
)
APPROXIMATE = (
    "The widths of the three frozen encoders are from memory of the paper; width, batch and rate are ours.",
    "The scale starts where products of M random unit vectors have the size of a dot product's; the release starts its "
    "synthetic task at s = −.3.",
    "What lacks is one learned vector of the embedding; the release joins a placeholder and an indicator before the "
    "projection.",
)


def get_config(arg=""):
    return symile.get_config(arg)
