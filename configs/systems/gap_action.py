"""GAP: generative action-description prompts for skeleton-based action recognition (arXiv 2208.05318).

Carried: branches of a skeleton, each pooled over the joints of one part of the body and compared with a text on that
part, beside one of the whole and the action's name; targets that are equal labels; a raw scale of each branch.

The published size reads a folder with `skeleton` (16 × 25 rows of 12 numbers: joints of 4 frames), `action`, `name` and
a text on each part, `head`, `hand`, `hip`, `foot` (`--config.data.path`); `--config.load` names a CLIP ViT-B/32, whose
text tower it trains. `:tiny` has pictures of emoji, whose areas stand for the parts of a body.
"""

import math

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.finetune_emoji import NAMES
from configs.systems import Claim

CLAIM = Claim(
    says="Descriptions of how parts of the body move, written by a language model, as supervision by text improve the "
    "recognition of actions by their skeletons at no cost of inference.",
    formula="`L = CE(action) + .8 · mean_k ½ [KL(T ‖ softmax(l_k F_k X_kᵀ)) + KL(T ‖ softmax(l_k X_k F_kᵀ))]` over "
    "five branches k (whole, head, hand, hip, foot), F and X of unit length, T = row-softmax(10 · same action), KL a "
    "mean over the batch, `l_k` learned as it is, from log(1/.07) = 2.66.",
    test="tests/objectives/test_gap_action.py::test_the_losses_equal_numpy",
    experiment="gap_action",
    control="names alone",
    gate="Zero-shot accuracy on actions that were not trained on, new in how their parts go together: texts on parts "
    "above names alone. What targets of equal labels gain over own pairs is reported, not gated.",
    out="The graph convolution CTR-GCN, the language model that writes, tables of NTU.",
)
APPROXIMATE = (
    "A transformer over joints × time, 256 wide and 6 deep, takes the place of CTR-GCN; of one body, NTU has two.",
    "A cosine takes the place of a rate that falls tenfold at epochs 90 and 100; steps are of 40,091 sequences, as in "
    "NTU's cross-subject split. Which joints make a part is from memory of the release.",
    "The classifier reads the whole's embedding before its unit length; the release's the pooled features.",
    "In `:tiny` areas of a picture stand for parts, and keywords, group, subgroup and name for texts on them: it shows "
    "that the machine runs.",
)
BODY = {  # NTU's 25 joints
    "head": (2, 3, 20), "hand": (4, 5, 6, 7, 8, 9, 10, 11, 21, 22, 23, 24), "hip": (0, 1, 2, 12, 16),
    "foot": (12, 13, 14, 15, 16, 17, 18, 19),
}  # fmt: skip
ROWS = {"head": range(3), "hip": range(3, 5), "foot": range(5, 8)}
AREAS = {part: tuple(8 * row + column for row in rows for column in range(8)) for part, rows in ROWS.items()}
AREAS["hand"] = tuple(8 * row + column for row in range(8) for column in (0, 1, 6, 7))
TINY = dict(name="name:random", head="keywords", hand="subgroup", hip="group", foot="name:en")


def parts(skeleton: dict, words: dict, places: dict, embed_dim: int, *, period=0) -> dict:
    """Both towers, and a branch of each part of the body. skeleton, words: sizes of the towers; places: {part of the
    body, and the modality of the text on it: its tokens of every `period`}."""
    towers, found = dict(body=(["skeleton"], skeleton), text=(["name", *places], words)), {}
    for name, (read, how) in towers.items():
        found |= {
            f"{name}_embed": dict(part="embed_one", reads=read, dim=how["dim"]),
            f"{name}_encoder": dict(part="encoder", reads=[f"{name}_embed"], **how),
            f"{name}_pool": dict(part="pool", reads=[f"{name}_encoder"], how="mean", width=how["dim"]),
            f"{name}_project": dict(part="project", reads=[f"{name}_pool"], dim=embed_dim),
        }
    for part, chosen in places.items():
        found |= {
            f"{part}_tokens": dict(
                part="select", reads=["body_encoder"], places=chosen, period=period, dim=skeleton["dim"]
            ),
            f"{part}_pool": dict(part="pool", reads=[f"{part}_tokens"], width=skeleton["dim"]),
            f"{part}_project": dict(part="project", reads=[f"{part}_pool"], dim=embed_dim),
        }
    found["text_pool"]["how"] = "last" if words.get("causal") else "mean"
    return found


def objectives(places) -> dict:
    """One of each branch, whose scale is its own, and the classifier. places: parts of the body that have a branch."""
    how = dict(
        objective="contrastive", learn="raw", temperature=1 / math.log(1 / 0.07), max_scale=0.0, divergence="kl",
        target=dict(target="labels", label="action", sharpness=10.0), coef=0.8 / (len(places) + 1),
    )  # fmt: skip
    found = dict(whole=how | dict(edges=[dict(a="skeleton", b="name")]))
    for part in places:
        branch = dict(name=f"{part} joints", part=f"{part}_project")
        found[part] = how | dict(edges=[dict(a=branch["name"], b=part)], branches=[branch])
    return found | dict(action=dict(objective="identification", modalities=["skeleton"], label="action"))


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict()
    c.steps, c.batch_size, c.data = 110 * 40_091 // 200, 200, dict(source="files")
    skeleton = dict(name="skeleton", kind="vectors", shape=(16 * 25, 12), field="skeleton", targets=False)
    texts = [text(77, 49408, "tokenizers/clip.json", name=name, field=name) for name in ("name", *BODY)]
    c.labels = [dict(name="action", kind="labels", shape=(1,), field="action", vocab_size=60)]
    words = dict(dim=512, heads=8, depth=12, causal=True, activation="quick_gelu", eps=1e-5)
    network = parts(dict(dim=256, heads=8, depth=6), words, BODY, 512, period=25)
    c.optim = dict(lr=0.1, warmup=1000, moments="sgd", weight_decay=5e-4)
    if arg:
        skeleton = image(64, 8, name="skeleton", field="render3d")
        texts = [text(16, name=name, field=field) for name, field in TINY.items()]
        c.data = dict(source="emoji")
        c.labels[0].update(dict(field="subgroup", vocab_size=95, classes=NAMES))
        size = dict(dim=64, heads=4, depth=2)
        network, c.optim = parts(size, size, AREAS, 64), dict(lr=2e-3, weight_decay=0.1, clip=1.0)
    c.modalities = [skeleton, *texts]
    c.model = dict(model="models.network", parts=network)
    c.objectives = objectives(BODY)
    c.evals = dict(val=dict(evaluator="losses", batch_size=64, every=1000))
    c.final_evals = dict(retrieval=dict(pairs=[("skeleton", "name")], label="action"))
    if arg:
        c.final_evals.retrieval.label = "subgroup"
        tiny(c, steps=100, warmup=10, every=50, log=20)
    return c
