"""ALIGN (arXiv 2102.05918).

Carried: a dual encoder under a softmax loss with a linear learned temperature, label smoothing and the sum of both
directions, for noisy pairs at scale. The settings are those of `configs/align.py`, `:tiny` too.
"""

from configs import align
from configs.systems import Claim

CLAIM = Claim(
    says="More than a billion noisy pairs with a plain dual encoder reach the state of the art: scale compensates "
    "noise.",
    formula="`CE(S / T) + CE(Sᵀ / T)`, T learned as it is, from 1, guarded above 0; smoothed targets "
    "`(1 − ε) I + ε / B`, ε = .1.",
    test="tests/objectives/test_published.py::test_align",
    experiment="align",
    control="1024 clean",
    gate="8192 pairs of which 30 % are shuffled beat 1024 clean ones, and a learned temperature one fixed at 1.",
    out="The data set.",
)
APPROXIMATE = (
    "The settings are those of a reproduction (kakaobrain/coyo-align); Google's own could not be confirmed.",
    "The towers are a ViT-L/17 and a transformer of BERT-Large's size; the reproduction has EfficientNets and BERT.",
)


def get_config(arg=""):
    return align.get_config(arg)
