"""Cross-modal information flow in multimodal language models (arXiv 2411.18620).

Carried: attention knock-out, which group of tokens must see which other in which blocks for the answer to come (the
task `knockout`).

Nothing is trained by the paper. At full size it is asked of a 4M (`configs/fourm_mod7.py`) and labels of one's own,
`--config.final_evals.knockout.label`. `:tiny` is 4M on emoji.
"""

from configs.common import check_arg
from configs.systems import Claim, fourm

CLAIM = Claim(
    says="In LLaVA what a picture says reaches the words of the question first, in general and then about what they "
    "name, and from these the last position, where the answer is said.",
    formula="In a window of blocks, `softmax(q·kᵀ/√d + B)` with `B_ij = −∞` for i of the target group and j ≠ i of the "
    "source group; `(p_cut − p) / p` of the right answer, the mean over examples that are right uncut.",
    test="tests/models/test_edits.py::test_a_cut_is_a_mask_of_some_blocks_and_heads",
    experiment="information_flow",
    control="untrained",
    gate="In a planted circuit of two blocks, image → question → last, cutting the right edge in the right block "
    "leaves the answer at chance, and every other cut costs less than 1 %. What a trained causal language model does "
    "is reported.",
    out="LLaVA and its results; patches of the object that is asked for as a group of their own.",
)
APPROXIMATE = (
    "The answer's probability is that of a logistic regression on the pooled output, which networks have that say no "
    "answer; in the experiment that is the last position of a causal language model, but the words' head is not read.",
    "A token goes on seeing itself where its group is cut from its own.",
    "In the experiment's trained network the last position looks at the pictures itself, too, other than in LLaVA.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = fourm.get_config(arg)
    told = ("render3d+caption", "group", 1) if arg else ("rgb@224+caption", "label", 9)
    c.final_evals = dict(knockout=dict(zip(("modalities", "label", "window"), told)))
    return c
