"""Modality importance score (arXiv 2408.12763).

Carried: how much each modality matters to a task, from accuracy on every subset of the inputs (the task `robustness`).

Nothing is trained by the paper. At full size a 4M (`configs/fourm_mod7.py`) tells labels of one's own from pictures and
captions, `--config.final_evals.robustness.labels`. `:tiny` is 4M on emoji.
"""

from configs.common import check_arg
from configs.systems import Claim, fourm

CLAIM = Claim(
    says="Most questions of video question answering are answered by one modality, or by any: a score of each "
    "modality's importance from a model's answers on all subsets agrees with people.",
    formula="`MIS_m = mean_{S∋m} acc(S) − mean_{S∌m} acc(S)` over the non-empty subsets S of the modalities; and with "
    "the empty one, a guess: only the first tells redundancy from synergy, only the second gives an irrelevant one 0.",
    test="tests/evals/test_metrics.py::test_importance_of_a_modality_is_exact_on_planted_tasks",
    experiment="modality_importance",
    control="untrained",
    gate="Of four planted tasks every score is within .05 of its exact value, and nearer than in an untrained network; "
    "the modality of another example is worth no more than none.",
    out="Language models as judges; TVQA, LifeQA and AVQA.",
)
APPROXIMATE = ()


def get_config(arg=""):
    check_arg(arg, __file__)
    c = fourm.get_config(arg)
    inputs, label = (["render3d", "caption"], "group") if arg else (["rgb@224", "caption"], "label")
    c.final_evals = dict(robustness=dict(inputs=inputs, labels=[label]))
    return c
