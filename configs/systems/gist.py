"""GIST (arXiv 2307.11315).

Carried: captions on a class, of which each picture is given those that fit it best, in the place of the class's name;
contrast with them, from own pairs or from equal labels, before a probe of pictures.

The published size starts from CLIP ViT-L/14 at 336 pixels (`--config.load`) and reads a folder in which each line has
an `image`, a `species` and the texts that `python -m tools.match_texts` chose of a language model's, `matched.jsonl`
(`--config.data.path`). `:labels` counts other pictures of the species as positives, too. `:tiny` does so, with the
keywords of emoji in the place of captions, and subgroups for species.
"""

from configs import clip_b16
from configs.common import check_arg, image
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.finetune_emoji import NAMES
from configs.systems import Claim

CLAIM = Claim(
    says="Captions that a language model writes of each class, matched to each of its pictures, improve fine-grained "
    "classification by what CLIP learns of them.",
    formula="Of an image i of class y the 4 texts t of y with the greatest `cos(f(i), g(t))`, f and g a CLIP that "
    "stays as it is; text = `y: t`, one of the 4 drawn each time; then CLIP's loss, `:labels` with all texts of the "
    "class as the target, evenly.",
    test="tests/objectives/test_gist.py::test_the_loss_equals_numpy",
    experiment="gist",
    control="random caption of the class",
    gate="5-shot accuracy of classes whose pictures differ among each other: matched captions above random ones of the "
    "class, and these above its name alone. What the target of labels gains is reported, not gated.",
    out="The language model that writes the captions, and the four sets of pictures.",
)
APPROXIMATE = (
    "The release takes the five likest captions and trains on four of them; which four was not read: here the likest.",
    "Captions are compared without the species in front.",
    "30 epochs of 5,994 pictures, the training set of CUB-200 from memory; the number of epochs is ours, and the rate "
    "falls as a cosine without a warm-up.",
    "AdamW's decay is decoupled; the release's Adam is given .001.",
    "In `:tiny` keywords were chosen by people for each picture, not matched.",
)
SPECIES, PICTURES = 200, 5_994


def objectives(*, labels: str = "", **edge) -> dict:
    """labels: of the run, whose equality is the target; "" for own pairs. edge: its a and b, if they are other ones."""
    target = dict(target=dict(target="labels", label=labels)) if labels else {}
    return dict(contrastive=dict(edges=[dict(a="image", b="text") | edge], **target))


def get_config(arg=""):
    check_arg(arg, __file__, ("tiny", "labels"))
    tiny = arg == "tiny"
    c = clip_b16.get_config("tiny" if tiny else "")
    c.objectives = objectives(labels="species" if arg else "")
    species = dict(name="species", kind="labels", shape=(1,), field="species", vocab_size=SPECIES)
    c.labels = [species] if arg else []
    probe = dict(modalities=["image"], labels=["species"])
    if tiny:
        species.update(field="subgroup", vocab_size=95, classes=NAMES)
        c.modalities[1]["field"] = "keywords"
        c.steps, c.final_evals = 120, dict(few_shot=probe | dict(labels=["group"], shots=[5]))
        return c
    towers = [dict(dim=1024, heads=16, depth=24), dict(dim=768, heads=12, depth=12)]
    for tower, size in zip(c.model.towers, towers):
        tower.update(size)
    c.modalities[0] = image(336, 14, CLIP_MEAN, CLIP_STD)
    c.model.embed_dim, c.data.train, c.batch_size, c.steps = 768, "matched", 20, 30 * PICTURES // 20
    c.optim = dict(lr=1e-6, b2=0.98, weight_decay=0.001)
    c.final_evals = dict(linear_probe=probe | dict(train="matched"))
    return c
