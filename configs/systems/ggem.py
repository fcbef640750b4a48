"""GGeM: group generalized mean pooling (arXiv 2212.04114).

Carried: its pooling, one learned exponent a group of channels, after any tower; here that of CLIP's pictures
(`configs/clip_b16.py`), one of the uses that the paper names.
"""

from configs import clip_b16
from configs.common import check_arg
from configs.systems import Claim

CLAIM = Claim(
    says="A generalized mean whose exponent each group of channels learns by itself pools a transformer's tokens "
    "better than a class token or one exponent, in classification, retrieval and multimodal training.",
    formula="`y_c = (mean_n max(x_nc, ε)^p_g(c))^(1 / p_g(c))`, computed as `exp((logsumexp_n(p log x) − log N) / p)`, "
    "p kept above .01; a group of channels for each head.",
    test="tests/models/parts/test_pool.py::test_each_pooling_takes_what_it_says",
    experiment="ggem",
    control="mean",
    gate="Evidence in one token for some channels, in all for others: GGeM above one exponent for all above the mean, "
    "and the exponents differ.",
    out="Tables of ImageNet.",
)
APPROXIMATE = (
    "No release was found: exponents that start at 3, ε = 1e-6, the clamp on normalised tokens and the number of "
    "groups follow GeM and a re-implementation.",
    "The training recipe is CLIP's; the paper's multimodal one could not be confirmed.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    c.model.towers[0]["pool"] = "ggem"
    return c
