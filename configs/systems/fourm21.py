"""4M-21: an any-to-any vision model for tens of tasks and modalities (arXiv 2406.09406).

Carried: tokenizers for feature maps, global vectors, boxes, poses and metadata; several mixture components over data in
which modalities lack; a start from the model of seven modalities.

The published settings are `configs/fourm_mod21.py` (`:B`, `:L`, `:XL`); set `--config.load` to the workdir of a 4M-7
model. `:tiny` reads three styles of an emoji as patches and five texts, and predicts the texts.
"""

from configs import fourm_mod21
from configs.common import check_arg
from configs.systems import Claim
from configs.systems.fourm import WRITTEN, text_to_text

CLAIM = Claim(
    says="One masked encoder-decoder over tens of modalities and several data sets handles at least three times more "
    "tasks than 4M's without losing quality on those that both have.",
    formula="As 4M: an absent modality adds 0 to the loss, and budgets are clamped to what exists. Inputs and targets "
    "of 256 tokens each in place of 128; the surplus of a clamped budget is not given to others.",
    test="tests/objectives/test_masking_4m.py::test_counts_are_distributed_as_in_the_reference",
    experiment="modalities",
    control="2 targets",
    gate="With more modalities, and budgets doubled as published, the loss of what both predict from the picture is at "
    "most .02 nats a token higher, at equal steps.",
    out="The networks that made its pseudo-labels (SAM, 4DHumans, DINOv2, ImageBind) are read, not trained; 3B.",
)
APPROXIMATE = ("The batch of 4096 is that of the released configs; the paper's table says 8192.",)


def get_config(arg=""):
    check_arg(arg, __file__)
    if arg:
        return text_to_text(("render3d", "flat", "noto"), WRITTEN, budget=64)
    return fourm_mod21.get_config("B")
