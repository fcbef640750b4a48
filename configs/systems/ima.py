"""Implicit multimodal alignment (IMA) (arXiv 2405.16700).

Carried: how near the tokens of two modalities are, layer by layer, how long they are, whether the same weights matter
to both, and what it costs if either skips MLPs (the task `implicit_alignment`).

Nothing is trained by the paper. At full size it is asked of a 4M (`configs/fourm_mod7.py`), in which one encoder reads
pictures and captions, and of labels of one's own, `--config.final_evals.implicit_alignment.label`. `:tiny` is 4M on
emoji.
"""

from configs.common import check_arg
from configs.systems import Claim, fourm

CLAIM = Claim(
    says="In a frozen language model tokens of pictures and of words stay apart, yet are aligned implicitly; the more "
    "they are, the better it does its tasks, and perceptual tokens can skip MLPs.",
    formula="In every layer `cos(mean_i x_i, mean_j y_j)` of the perceptual tokens x and the text tokens y; of all "
    "pairs `cos(x_i, y_j)` the largest, mean, median, least, and the mean over i of the largest over j. Masks: the "
    "top share of `|W_ij| · ‖x_i‖`, x_i the tokens' i-th numbers, compared by IoU.",
    test="tests/evals/test_implicit_alignment.py::test_every_number_is_that_of_an_independent_writing",
    experiment="ima",
    control="before training",
    gate="A language model is frozen, and a linear map from pictures is trained into it: over its training "
    "the alignment score rises with accuracy (rank correlation above 0), and pictures' tokens that skip MLPs cost "
    "less than words' that do.",
    out="Large language models; hallucination; compression by the masks.",
)
APPROXIMATE = (
    "Masks are of attention's input projections alone, whose inputs are what the layers before gave.",
    "What is skipped is the MLP of every other block, of one kind of token at a time.",
    "The paper compares trained models; the experiment the checkpoints of one training, from several seeds. Its words' "
    "tokens are those that ask, and of them the last is where the answer is read.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = fourm.get_config(arg)
    picture, label = ("render3d", "group") if arg else ("rgb@224", "label")
    c.final_evals = dict(implicit_alignment=dict(pairs=[(picture, "caption")], label=label))
    return c
