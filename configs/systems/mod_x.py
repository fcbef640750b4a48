"""Mod-X: continual vision-language representation learning with off-diagonal information (arXiv 2305.07437).

Carried: the divergence of the similarities of a batch from those that the model found when a phase began, of pairs that
it found right; phases of one run, each measured on the domains of all.

The published run is two towers on COCO, then on five parts of Flickr30K: folders `coco`, `flickr30k_1` … `flickr30k_5`
of image-text files in `data/mod_x`. `:tiny` learns emoji of one designer, then of two others. `R[phase][domain]` is in
`phases.json` of the workdir.
"""

from configs import clip_b16
from configs.common import check_arg, image, text
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="CLIP that learns domain after domain forgets, since its space turns and its modalities deviate from each "
    "other; holding its similarities to those of the model before reduces that.",
    formula="From the second phase on `L = InfoNCE + 20 · ½ (Σ_i KL(softmax(O_i) ‖ softmax(S_i)) + the same of Oᵀ, "
    "Sᵀ)`, S the raw cosines of the batch, O those of the model as the phase began, without gradient. A row of O, or "
    "of Oᵀ, whose greatest entry is not its own pair is replaced by that of S.",
    test="tests/objectives/test_targets.py::test_a_teacher_equals_numpy",
    experiment="mod_x",
    control="fine-tuning",
    gate="After five domains R@1 of the first is above that of fine-tuning, the average no worse, and worse without "
    "the filter. The newest domain pays for it, and is reported.",
    out="Numbers of a ResNet-50, and the angles of drift, which are the paper's diagnosis.",
)
APPROXIMATE = (
    "CLIP's transformer towers at ViT-B/32, which the release has beside its ResNet-50.",
    "The diagonal is distilled with the rest, as in the release, although the method is named after what lies off it.",
    "35 epochs of each phase: of COCO's 118,287 pictures, and of five parts of 29,000 of Flickr30K, in batches of 64 "
    "and 70; the numbers of pictures are from memory, and one caption stands for the five of each.",
    "In `:tiny` a domain is the hand of one designer of emoji: the names are the same in all.",
)
EDGES, ALPHA, EPOCHS = [dict(a="image", b="text")], 20.0, 35
PARTS = 5


def objectives(edges=EDGES, *, distilled: bool) -> dict:
    """InfoNCE, whose scale lies between 1 and 100 as in CLIP, and the divergence from the snapshot `old`."""
    found = dict(contrastive=dict(edges=edges))
    if distilled:
        found["modx"] = dict(
            objective="contrastive", edges=edges, coef=ALPHA, temperature=1.0, learn="fixed", reduction="sum",
            divergence="kl", target=dict(target="teacher", model="old", correct=True),
        )  # fmt: skip
    return found


def phase(name: str, steps: int, **changes) -> dict:
    """A later one: what a model was when it began is what its similarities are held to."""
    old = dict(references=dict(old=dict(reference="snapshot")), objectives=objectives(distilled=True))
    return dict(name=name, steps=steps, optim=dict(warmup=steps // 5), **changes) | old


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    if arg:
        looks = ("render3d", "noto", "flat")
        c.final_evals = dict(retrieval=dict(pairs=[("image", "text")]))
        of = lambda look: [image(64, 8, field=look), text(16, field="name:en")]
        c.modalities = of(looks[0])
        c.phases = [dict(name=looks[0])] + [phase(look, c.steps, modalities=of(look)) for look in looks[1:]]
        return c
    c.modalities[0] = image(224, 32, CLIP_MEAN, CLIP_STD)
    c.batch_size, c.steps, later = 70, EPOCHS * 118_287 // 70, EPOCHS * 29_000 // PARTS // 64
    c.optim = dict(lr=5e-4, warmup=c.steps // 5, weight_decay=0.1, b2=0.999)
    c.data.path = "data/mod_x/coco"
    slices = [f"flickr30k_{i + 1}" for i in range(PARTS)]
    c.phases = [dict(name="coco", optim=dict(weight_decay=0.01))] + [
        phase(part, later, batch_size=64, data=dict(path=f"data/mod_x/{part}")) for part in slices
    ]
    return c
