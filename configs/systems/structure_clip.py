"""Structure-CLIP (arXiv 2305.06152).

Carried: a text whose words were exchanged as a negative of its own picture, by a hinge on that pair or as one more
logit of the picture; the ranking loss of the hardest negatives with its warm-up; the choice between a caption and its
exchanged form as an evaluation.

The published size starts from CLIP ViT-B/32 (`--config.load`: its workdir, as `tools.convert` writes it) and reads a
folder of image-text files (`--config.data.path`). `:tiny` starts from nothing, where the hardest negatives draw all
together: it has the form of a further logit, on the names of emoji.
"""

from configs import clip_b16
from configs.common import check_arg, image
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="Negatives that say something else in the same words, made by the scene graph of a caption, and an encoder of "
    "its triples, make a model sensitive to which attribute and relation belongs to what, and keep retrieval.",
    formula="`L = mean_b [relu(max_{j≠i} s(I_i, t_j) + .2 − s_ii) + relu(max_{j≠i} s(t_i, I_j) + .2 − s_ii)] + 5 · "
    "mean_b relu(s(I_i, t⁻_i) − s(I_i, t_i) + .1)`, cosines s; for 100 steps the mean of a text's row, its own picture "
    "in it, is in the place of its maximum. `objectives(logit=True)`: `t⁻_i` is instead a further column of picture i "
    "in CLIP's cross-entropy, of the direction from pictures to texts alone.",
    test="tests/objectives/test_structure_clip.py::test_the_losses_equal_numpy",
    experiment="structure_clip",
    control="random text as a logit",
    gate="How often a held-out caption is told from its exchanged form, by hinge and by logit: above contrast alone, "
    "and above the same with a random text in the place of the exchanged one, which gains nothing itself.",
    out="The scene graphs, and the encoder of their triples, whose output is added to a text's embedding.",
)
APPROXIMATE = (
    "Any two words that differ are exchanged, anew at every epoch; the release exchanges by a scene graph, once.",
    "Without the triples' embedding, `t + .2 e`, which is not brought to length 1 there: margins are of plain cosines.",
    "The warm-up changes the texts' direction alone, as the release has it.",
    "10 epochs of 118,287 pictures of COCO, from memory, with a caption each; the release's set is COCO's and Visual "
    "Genome's captions. Of its schedule nothing was read: a cosine without warm-up of the rate.",
    "In `:tiny` what is left when two words are exchanged is often no English, so that a text may be told by itself.",
)
EDGES, EPOCH = [dict(a="image", b="text")], 118_287 // 64


def objectives(edges=EDGES, *, warmup=100, swapped=5.0, logit=False, variant="swapped") -> dict:
    """warmup: steps of which the texts' hinge is on the mean. swapped: weight of the hinge on the exchanged text, 0 for
    none. logit: the form that this project prefers, CLIP's loss with one more column. variant: of the texts."""
    if logit:
        return dict(contrastive=dict(edges=edges, target=dict(target="negatives", variants=[variant])))
    hinge = dict(objective="triplet", edges=edges, negatives="hardest", directions="forward")
    at = dict(steps=1, begin=warmup - 1)
    mean = hinge | dict(negatives="mean", directions="backward", coef=dict(start=1.0, end=0.0, **at))
    hardest = hinge | dict(directions="backward", coef=dict(start=0.0, end=1.0, **at))
    found = dict(texts=hinge, pictures_mean=mean, pictures=hardest)
    pair = dict(objective="pair_hinge", edges=edges, variant=variant, coef=swapped)
    return found | (dict(swapped=pair) if swapped else {})


def get_config(arg=""):
    check_arg(arg, __file__)
    c = clip_b16.get_config(arg)
    c.objectives = objectives(logit=bool(arg))
    c.final_evals.two_alternatives = dict(pairs=[("image", "text")], variant="swapped")
    crop = dict(transform="crop", min_scale=0.9, flip=0.5)
    if arg:
        c.modalities[1]["field"] = "title"
        write = dict(transform="text_variants", field="title", of=["name:en"])
        c.data.transforms = [write, crop, dict(transform="swapped_text", field="title")]
        c.steps, c.optim.warmup = 150, 20
        return c
    c.modalities[0] = image(224, 32, CLIP_MEAN, CLIP_STD)
    c.data.transforms = [crop, dict(transform="swapped_text", field="caption")]
    c.batch_size, c.steps = 64, 10 * EPOCH
    c.optim = dict(lr=5e-6, weight_decay=0.1)
    return c
