"""IRRA: implicit relation reasoning and aligning for text-to-person retrieval (arXiv 2303.12501).

Carried: similarity-distribution matching, a reverse divergence of similarities from equal identities; a classifier of
identities for both modalities; masked words that read the picture by one cross-attention and a small encoder, which
training alone needs.

The published size starts from CLIP ViT-B/16 (`--config.load`: its workdir, as `tools.convert` writes it) and reads a
folder with an `image`, a `caption` and an `id` for every example (`--config.data.path`). `:tiny` takes the subgroups of
emoji for identities.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.finetune_emoji import NAMES
from configs.systems import Claim, maple

CLAIM = Claim(
    says="Matching distributions of similarities, and masked words that reason over the picture's tokens, give the "
    "best retrieval of persons by texts.",
    formula="`L = SDM + ID + MLM`. `SDM = Σ_directions mean_i Σ_j p_ij (log p_ij − log(q_ij + ε))`, `p = "
    "softmax(50 cos)`, q equal identity, rows normalised, ε = 1e-8; ID: the mean of both modalities' cross-entropy "
    "under one classifier; MLM: cross-entropy of masked words (.15; 80 % mask, 10 % random, 10 % kept; one a text at "
    "least) from `encoder(attn(norm(text); norm(image)))`.",
    test="tests/objectives/test_irra.py::test_the_losses_equal_numpy",
    experiment="irra",
    control="own pairs (ITC)",
    gate="R@1 of identities from texts, with several pictures of each in a batch: SDM above cross-entropy from the own "
    "pair, and no worse than cross-entropy from equal identities.",
    out="Sets of pictures of persons, and the hardest-negative loss that knows identities, which does better in toys.",
)
APPROXIMATE = (
    "Picture tokens come to the width of the text by a layer of their own; IRRA's CLIP projects them. The classifier "
    "reads the projected vector, as there.",
    "Words are scored by the table that embeds them, without a bias, after a GELU; IRRA has a layer of its own after "
    "QuickGELU. Norms have CLIP's ε.",
    "Pictures are flipped and cropped to .8 of their area and more; the release pads, crops and erases at random. That "
    "biases learn twice as fast there is not carried.",
    "60 epochs of 68,126 pairs, CUHK-PEDES' training set from memory. AdamW's decay is decoupled; Adam's there is not.",
    "In `:tiny` an identity is one of 95 subgroups of emoji: kinds of things, not one thing seen twice.",
)
EPOCH = 68_126 // 64


def parts(towers: dict, embed_dim: int, cross: int) -> dict:
    """CLIP, and the small encoder of masked words. towers: {"image", "text": sizes}; cross: its depth."""
    size = {key: towers["text"][key] for key in ("dim", "heads")}
    return maple.parts(towers, embed_dim, how="") | dict(
        cross=dict(part="cross_attention", reads=["text_encoder", "image_encoder"], eps=1e-5, **size),
        crossed=dict(part="encoder", reads=["cross"], depth=cross, activation="quick_gelu", eps=1e-5, **size),
        spoken=dict(part="transform", reads=["crossed"], dim=size["dim"], eps=1e-5),
        words=dict(part="word_head", reads=["spoken"], table="text_embed"),
    )


def objectives(**tokens) -> dict:
    """The three losses. tokens: `mask_id` and `special` of the text."""
    shown = dict(text="text", objects="image", regions=0.0, mismatched=0.0, least=True, **tokens)
    return dict(
        sdm=dict(
            objective="contrastive", edges=[dict(a="image", b="text")], temperature=0.02, learn="fixed",
            directions="sum", target=dict(target="labels", label="id"), divergence="reverse_kl",
        ),
        id=dict(objective="identification", modalities=["image", "text"], label="id"),
        mlm=dict(objective="masked_words", head="words", shown=shown),
    )  # fmt: skip


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict()
    towers = dict(image=dict(dim=768, heads=12, depth=12), text=dict(dim=512, heads=8, depth=12))
    c.steps, c.batch_size = 60 * EPOCH, 64
    c.data = dict(source="files", transforms=[dict(transform="crop", min_scale=0.8, flip=0.5)])
    picture = image(384, 16, CLIP_MEAN, CLIP_STD) | dict(shape=(384, 128, 3))
    c.modalities = [picture, text(77, 49408, "tokenizers/clip.json")]
    c.labels = [dict(name="id", kind="labels", shape=(1,), field="id", vocab_size=11_003)]
    # CLIP's vocabulary has no mask token; the id before its start and end, a rare word's, stands for it.
    c.objectives = objectives(mask_id=49405, special=[49406, 49407])
    new = "/(cross|crossed|spoken)/|^objective/id/"
    c.optim = dict(
        lr=1e-5, warmup=5 * EPOCH, b2=0.999, weight_decay=4e-5, rules=[dict(pattern=new, lr_scale=5.0)]
    )  # fmt: skip
    c.evals = dict(val=dict(evaluator="losses", batch_size=64, every=2000))
    c.final_evals = dict(retrieval=dict(pairs=[("text", "image")], label="id"))
    c.model = dict(model="models.network", parts=parts(towers, 512, 4))
    if arg:
        towers = {name: dict(dim=64, heads=4, depth=2) for name in towers}
        c.data = dict(source="emoji", transforms=[dict(transform="crop", min_scale=0.6)])
        c.modalities = [image(64, 8, field="render3d"), text(16, field="name:en")]
        c.labels[0].update(dict(field="subgroup", vocab_size=95, classes=NAMES))
        c.objectives, c.optim = objectives(mask_id=4, special=[3]), dict(lr=2e-3, weight_decay=0.1, clip=1.0)
        c.model.parts = parts(towers, 64, 1)
        tiny(c, steps=200, warmup=20, every=100, log=20)
        c.final_evals.retrieval.label = "subgroup"
    return c
