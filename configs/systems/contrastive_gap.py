"""The contrastive gap (arXiv 2405.18570).

Carried: terms of uniformity and alignment beside CLIP's loss under a fixed low temperature, and what measures the gap
between modalities.

A CLIP ViT-B/32 fine-tuned on COCO's image-caption files (`--config.data.path`): set `--config.load` to its workdir, as
`tools.convert` writes it. `:tiny` trains two towers on emoji from fresh weights.
"""

from configs import clip_b16
from configs.common import check_arg, image
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="The contrastive loss of two encoders itself leaves a gap between images and texts, by low uniformity; terms "
    "of uniformity and alignment close it and help zero-shot classification and arithmetic on embeddings.",
    formula="`L_CLIP + L_U + L_A` with `L_U = ½ Σ_m log mean_{j<k} exp(−2 ‖m_j − m_k‖²)` over both modalities m, "
    "`L_A = mean_j ‖I_j − T_j‖²`; with `L_X = log mean_{j≠k} exp(−2 ‖I_j − T_k‖²)` on demand (`cross`).",
    test="tests/objectives/test_cross.py::test_uniformity_equals_numpy",
    experiment="gap",
    control="CLIP",
    gate="At T = .01 U + A bring the means of the modalities nearer to each other, and R@1 falls by at most a point.",
    out="Zero-shot tables at CLIP's scale, SIMAT.",
)
APPROXIMATE = (
    "b1, b2 and ε of the optimizer are CLIP's; 9 epochs are of 118,287 pictures, with one of their captions each time.",
)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    edges = [dict(a="image", b="text")]
    c.objectives.contrastive = dict(edges=edges, temperature=0.01, learn="fixed")
    c.objectives.uniformity = dict(edges=edges)
    c.final_evals.diagnostics = dict(pairs=[("image", "text")])
    if arg:
        return c
    c.modalities[0] = image(224, 32, CLIP_MEAN, CLIP_STD)
    c.batch_size, c.steps = 64, 9 * 118_287 // 64
    c.optim = dict(lr=1e-6, final_lr=1.0, weight_decay=0.1, b2=0.98, eps=1e-6)
    return c
