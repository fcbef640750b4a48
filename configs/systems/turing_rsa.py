"""Turing representational similarity analysis (arXiv 2412.00577).

Carried: the similarity of examples for a network beside that of people who rated them, as a group and one by one, with
a noise ceiling and a permutation test (the task `rsa`).

Nothing is trained by the paper. At full size CLIP's towers (`configs/clip_b16.py`) are compared with ratings of one's
own: `--config.final_evals.rsa.reference=ratings.npz`, arrays `row [n]` and `similarity [raters, n, n]`. `:tiny` is CLIP
on emoji, compared with the keywords that two emoji share.
"""

from configs import clip_b16
from configs.common import check_arg
from configs.systems import Claim

CLAIM = Claim(
    says="Asked to rate how alike pairs of words, sentences and pictures are, GPT-4o comes nearest to people as a "
    "group, and no model follows how single people differ.",
    formula="Spearman's ρ between the upper triangles of `cos(x_i, x_j)` and of the ratings, their mean or one "
    "rater's. p: how often examples in a random order do as well. Noise ceiling: the mean ρ of a rater with the "
    "mean of the others (lower) and of all (upper).",
    test="tests/evals/test_metrics.py::test_a_permutation_p_counts_random_orders",
    experiment="turing_rsa",
    control="untrained",
    gate="Raters are 26 languages, which name 270 emoji: a network of pictures that was trained on other emoji's names "
    "agrees with the group more than the untrained one, and more than with a single rater.",
    out="Ratings of language models, and the people's: no ratings come with this project.",
)
APPROXIMATE = (
    "The paper's prompts, scale and noise ceiling could not be confirmed; the ceiling is that of Nili et al. (2014).",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    c.final_evals.rsa = dict(modalities=["image", "text"], reference="keywords" if arg else "ratings.npz")
    return c
