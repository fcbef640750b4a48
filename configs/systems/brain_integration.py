"""Revealing vision-language integration in the brain with multimodal networks (arXiv 2406.14481).

Carried: encoding models of recorded responses, and which sites a network that reads two modalities together predicts
better than either and than both side by side (the task `encoding`).

Nothing is trained by the paper. At full size a 4M (`configs/fourm_mod7.py`) predicts recordings of one's own:
`--config.final_evals.encoding.responses=responses.npz`, arrays `row [n]` and `responses [n, sites]`. `:tiny` is 4M on
emoji; its sites are keywords, which respond to the emoji that have them.
"""

from configs.common import check_arg
from configs.systems import Claim, fourm

CLAIM = Claim(
    says="141 of 1,090 sites of intracranial recordings (12.9 %) are better predicted by multimodal networks than by "
    "unimodal ones or a linear combination of them.",
    formula="Ridge regression by nine contiguous folds; of each the first half chooses α ∈ 10^{−1…5} by r, "
    "site by site, the second is scored. A site integrates if `r(both) > max(r(vision), r(language), r(side by "
    "side))` in drawn stimuli, at a false discovery rate of .05 (Benjamini–Hochberg).",
    test="tests/evals/test_ridge.py::test_predictions_are_those_of_normal_equations_fold_by_fold",
    experiment="brain_integration",
    control="untrained",
    gate="Of simulated sites more than half of those that respond to an interaction are flagged, more than for the "
    "untrained network, and of sites that respond to vision, language or a sum of both at most a twentieth.",
    out="The recordings; SLIP and SimCLR.",
)
APPROXIMATE = (
    "Features are not projected at random first: pooled ones are narrow enough.",
    "The network reads one modality with the other missing; the paper's unimodal networks are others. Where it reads a "
    "modality worse alone than beside another, sites of that modality alone are flagged: in the experiment a fifth of "
    "those of the modality that enters last.",
    "r is a mean over folds: predictions are standardised within each before stimuli are drawn again.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = fourm.get_config(arg)
    pair = ("render3d", "caption", "keywords") if arg else ("rgb@224", "caption", "responses.npz")
    c.final_evals = dict(encoding=dict(zip(("vision", "language", "responses"), pair)))
    return c
