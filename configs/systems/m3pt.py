"""M3PT: a multi-modal model for the tagging of points of interest (arXiv 2306.10079).

Carried: one vector of a picture's tokens and of a text's, by NeXtVLAD; contrast with tags beside triplets of distances
√(2 − 2s), of the hardest tag and of the mean of the others; a matching head over a content and a tag, whose negatives
are drawn by the similarities of the batch.

The published size reads a folder with an `image`, a `text` and a `tag` of every place (`--config.data.path`), BERT's
tokenizer, `tokenizers/bert.json` beside you, and starts from a picture and a text encoder (`--config.load`). Pictures
are first trained against tags alone, and stay as they are from then on. `:tiny` finds the names of emoji by their
pictures and keywords.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="An image encoder that is adapted to the domain, fusion of pictures and texts, and contrast of contents with "
    "tags improve the tagging of places.",
    formula="`content = W̄ SE(NeXtVLAD(tokens of picture and text))`, `s = cos(P content, Q cls(tag))`, W̄ of columns 1 "
    "long. `L = Σ_directions [relu(.1 + d_ii − mean_{j≠i} d_ij) + relu(.1 + d_ii − min_{j≠i} d_ij)] + ½ (CE(20 s) + "
    "CE(20 sᵀ)) + M`, `d = √(2 − 2s)`; M: cross-entropy of matched or not, over each own pair, its content beside "
    "another tag and its tag beside another content, drawn with softmax(s) without the own.",
    test="tests/objectives/test_m3pt.py::test_the_losses_equal_numpy",
    experiment="m3pt",
    control="drawn evenly",
    gate="A matching head whose negatives are drawn by similarity has a higher loss on them than one with even draws, "
    "and finds the own tag first more often among the ten that are nearest by contrast.",
    out="The data, which are a company's.",
)
APPROXIMATE = (
    "Layer norms stand in NeXtVLAD where the release normalises over the batch. The release divides each cluster's "
    "residual by its sum of absolute values (`power=1`, a second argument that is taken for the norm), as carried.",
    "The release renormalises the columns of its last layers after each step; here W̄ is divided by their lengths in "
    "each pass, and P and Q are not. It never says their width: 768 here. Class tokens are not pooled.",
    "The release draws by the transposed similarities: a content's negative tag by how like its own tag other contents "
    "are. Here it is drawn by how like the content other tags are.",
    "Tags have an encoder of their own; in the release all texts share one. A content is one more token of the tag's "
    "upper six layers here; there they read it by a cross-attention.",
    "√ has 1e-6 under it. The learned temperature, which nothing reads there, is left out.",
    "Steps, the first stage's loss (contrast alone), and a warm-up of one step in a hundred are not from any source.",
    "The harness compares tags with the mean of a picture's and a text's vectors, each by itself.",
)
EDGES = [dict(a="content", b="tag")]
BRANCHES = [dict(name="content", part="content_project")]


def parts(picture: dict, words: dict, *, embed_dim=768, pair=6, **vlad) -> dict:
    """picture, words: sizes of the encoders of pictures, and of texts and of tags; pair: layers over a content and a
    tag; vlad: more settings of `parts.nextvlad`."""
    dim, token = words["dim"], dict(part="embed_one", cls=True)
    read = lambda name: {
        f"{name}_embed": dict(reads=[name], dim=dim, norm=True, **token),
        f"{name}_encoder": dict(part="encoder", reads=[f"{name}_embed"], **words),
    }
    return dict(
        image_embed=dict(reads=["image"], dim=picture["dim"], **token),
        image_encoder=dict(part="encoder", reads=["image_embed"], **picture),
        **read("text"),
        content=dict(part="nextvlad", reads=["image_encoder", "text_encoder"], dim=dim, power=1, **vlad),
        content_project=dict(part="project", reads=["content"], dim=embed_dim),
        **read("tag"),
        tag_pool=dict(part="pool", reads=["tag_encoder"], how="cls", width=dim),
        tag_project=dict(part="project", reads=["tag_pool"], dim=embed_dim),
        pair=dict(part="attach", reads=["tag_encoder", "content"], dim=dim),
        pair_encoder=dict(part="encoder", reads=["pair"], **words | dict(depth=pair)),
        pair_pool=dict(part="pool", reads=["pair_encoder"], how="cls", width=dim),
        match=dict(part="predict", reads=["pair_pool"], dim=2),
    )


def objectives(scale=1.0) -> dict:
    """scale: of the cosines by which negatives of the matching head are drawn."""
    sides = dict(edges=EDGES, branches=BRANCHES)
    apart = dict(objective="triplet", distance=True, margin=0.1, **sides)
    return dict(
        contrastive=dict(temperature=0.05, learn="fixed", **sides),
        others=dict(negatives="others", **apart),
        hardest=dict(negatives="hardest", **apart),
        match=dict(objective="sampled_matching", head="match", scale=scale, **sides),
    )


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict(dict(objectives=objectives(), evals=dict(val=dict(evaluator="losses", every=1000))))
    c.final_evals = dict(retrieval=dict(pairs=[("image+text", "tag")]))
    if arg:
        size = dict(dim=64, heads=4, depth=1)
        vlad = dict(clusters=8, groups=4, reduction=8)
        c.model = dict(model="models.network", parts=parts(size, size, embed_dim=64, pair=1, **vlad))
        c.data, c.optim = dict(source="emoji"), dict(lr=1e-3, weight_decay=0.02, clip=1.0)
        c.modalities = [
            image(64, 8, field="render3d"),
            text(16, field="keywords"),
            text(16, name="tag", field="name:en"),
        ]
        return tiny(c, steps=150, warmup=20, every=75)
    base = dict(dim=768, heads=12)
    c.model = dict(model="models.network", parts=parts(base | dict(depth=12), base | dict(depth=6)))
    c.data, c.batch_size, c.steps = dict(source="files"), 256, 20_000
    words = dict(length=50, vocab_size=30522, tokenizer="tokenizers/bert.json")
    c.modalities = [image(224, 16), text(name="text", field="text", **words), text(name="tag", field="tag", **words)]
    c.optim = dict(lr=1e-5, warmup=200, b2=0.999, weight_decay=0.02)
    pictures = dict(contrastive=dict(temperature=0.05, learn="fixed", edges=[dict(a="image", b="tag")]))
    still = dict(parts=["image_embed", "image_encoder"], how="nothing")
    c.phases = [dict(name="pictures", objectives=pictures), dict(name="all", train=[still, dict()])]
    return c
