"""Multi-modal prototypes for open-world segmentation (arXiv 2307.02003).

Carried: patches of a picture told apart by prototypes of texts, of regions of a few examples, and by both, the best or
the mean over several of each class (the task `segmentation`); nothing is trained on maps.

At full size CLIP's towers (`configs/clip_b16.py`) are tested on PASCAL's classes, on a folder whose held-out examples
have a map `segments`, 0 the ground, 255 without a label. `:tiny` is CLIP on scenes of coloured silhouettes of emoji,
with a mean over patches in the place of the class token, so that patches lie in the common space by themselves.
"""

from configs import clip_b16
from configs.common import check_arg, image, text
from configs.systems import Claim

CLAIM = Claim(
    says="Prototypes of texts and of pictures together segment what was never trained on better than either: texts say "
    "much of a class, pictures show what texts leave open.",
    formula="`s_k(x, c) = max_p cos(x, p)` or the mean, over prototypes p of class c, k texts (a class's aspects) or "
    "regions (centres of k-means over the patches of an example's region), of mean 0 and deviation 1 on other "
    "examples; both: their mean. A patch is of `argmax_c`, or of the ground below a score that is best for these.",
    test="tests/evals/test_segmentation.py::test_scores_and_iou_equal_a_count_by_hand",
    experiment="prototypes_segmentation",
    control="visual",
    gate="Of planted patches, with one example of a class, of one of its looks, and a text that could mean another: "
    "both together above each; with several examples and texts the best prototype above the mean over them.",
    out="The learned cross-attention between prototypes, and the decoder of masks.",
)
APPROXIMATE = (
    "The paper's fusion is learned (a cross-attention whose layers and losses could not be confirmed); here scores are "
    "added. Regions are split by k-means; what its 'M-Splitting' does was not read.",
    "Aspects of PASCAL's classes are their names; the paper has a language model write several.",
    "The score below which a patch is ground is ours.",
)
COLOURS = ("red", "green", "blue", "yellow", "pink", "black")
SHAPES = ("star", "key", "umbrella", "anchor", "cactus", "bus")  # 1 … 6 of the source's map
PASCAL = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person plant sheep sofa train "
    "television"
).split()


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    aspects = [[], *([f"a photo of a {name}"] for name in PASCAL)]
    size = c.modalities[0]["shape"][0]
    if arg:
        c.data, size = dict(source="coloured_emoji"), 48
        c.modalities = [image(size, 6, field="picture"), text(16)]
        c.model.towers[0]["pool"] = "mean"
        c.steps, c.optim.warmup = 400, 40
        aspects = [[], *([f"{colour} {shape}" for colour in COLOURS] for shape in SHAPES)]
    field = "shapes" if arg else "segments"
    spec = dict(name="segments", kind="pixels", field=field, resample="nearest", vocab_size=len(aspects))
    c.labels = [spec | dict(shape=(size, size, 1))]
    c.final_evals.segmentation = dict(modality="image", text="text", label="segments", aspects=aspects)
    return c
