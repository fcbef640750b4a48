"""Semantic representation and inference for NLP (thesis) (arXiv 2106.08117).

Carried: how near the vector of a phrase lies to the mean of its words' vectors, which should tell a literal phrase from
an idiom (the task `composition`).

Nothing is trained here for it. At full size the text tower of CLIP (`configs/clip_b16.py`) is tested on a folder of
rated phrases, `--config.final_evals.composition.path`, whose lines hold a `phrase` and a number, `literal`. `:tiny` is
CLIP on emoji, whose names of several words are the phrases.
"""

from configs import clip_b16
from configs.common import check_arg
from configs.systems import Claim

CLAIM = Claim(
    says="Whether a phrase means what its words say is seen in context, and inference gains from knowing it.",
    formula="`cos(z(phrase), mean_w z(w))`, unit vectors, w the words of the phrase; AUROC of literal phrases against "
    "idioms by that cosine, with a 95 % bootstrap interval.",
    test="tests/evals/test_composition.py::test_the_cosine_equals_numpy",
    experiment="semantic_composition",
    control="untrained",
    gate="Of phrases that were learned from pictures, literal ones, which show what their words do, lie nearer to the "
    "mean of their words than idioms, which show something of their own: more so than before training.",
    out="Its models of claims, of contextual compositionality and of attention gated by syntax, and their data.",
)
APPROXIMATE = (
    "The arXiv id could not be confirmed. The probe is what this project takes from the thesis, which trains a model "
    "of compositionality in context; a mean of words was not read there.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    given = dict(phrases="name:en") if arg else dict(path="data/phrases")
    c.final_evals.composition = dict(modalities=["text"], **given)
    return c
