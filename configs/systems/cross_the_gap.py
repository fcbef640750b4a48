"""Cross the Gap: exposing the intra-modal misalignment in CLIP via modality inversion (arXiv 2502.04263).

Carried: textual and visual inversion of single examples, and retrieval within a modality by what they gave, between
modalities, that is (the task `inversion`).

Nothing is trained by the paper. At full size CLIP's towers (`configs/clip_b16.py`) are asked, with labels of one's own,
`--config.final_evals.oti.label` and `ovi.label`. `:tiny` is CLIP on emoji.
"""

from configs import clip_b16
from configs.common import check_arg
from configs.systems import Claim

CLAIM = Claim(
    says="CLIP's embeddings of one modality are aligned with the other's, not with each other: retrieval within a "
    "modality gets better if a query is first inverted into the other modality.",
    formula="OTI: `v* = argmax_v cos(text('a photo of [v]'), image(x))`, one vector in a frozen template; OVI: P "
    "vectors in the place of all patches, `argmax_v cos(image(v), text(x))`; AdamW. Others y are ranked by the cosine "
    "of what `v*` gives with their own embeddings.",
    test="tests/evals/test_inversion.py::test_the_inner_loop_is_adamw_of_each_example_alone",
    experiment="cross_the_gap",
    control="untrained",
    gate="Mechanics: the inner loss falls, the cosine ends between .5 and .99, the network keeps every bit, and an "
    "example's inversion is the same alone and among others. What retrieval gains is reported, not gated.",
    out="Its fifteen data sets; SLIP and other networks with intra-modal losses.",
)
APPROXIMATE = (
    "Pseudo-patches are repeated in raster order, each over an equal share of the places; whether the release "
    "interpolates over rows and columns could not be confirmed.",
    "The release gives 1 pseudo-patch for ViT-B/32 and 4 for L/14; of B/16 it says nothing, and 1 is ours.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c, label = clip_b16.get_config(arg), "group" if arg else "label"
    small = dict(steps=50, examples=32) if arg else {}
    c.final_evals = dict(
        oti=dict(evaluator="inversion", pairs=[("image", "text")], label=label) | small,
        ovi=dict(evaluator="inversion", pairs=[("text", "image")], label=label, steps=1000) | small,
    )
    return c
