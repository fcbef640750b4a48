"""OpenShape (arXiv 2305.10764).

Carried: a tower of points beside embeddings of texts and pictures that were made beforehand; texts drawn from several
sources; edges that each count the examples which have both; batches of near duplicates without those that may be true.

The published size reads a folder (`--config.data.path`) of arrays for every example: `points` [10000, 6], upright along
z, and rows of 1280 numbers by OpenCLIP bigG-14: `name` where it says something, `blip`, `azure`, `retrieved`,
`thumbnail`, `renders`. Its second phase reads `neighbours.npy`, the numbers of the 31 examples nearest to each, from
the folder where it is started. `:tiny` reads clouds of points of emoji, their names or keywords, and small
pictures.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, text, tiny
from configs.systems import Claim
from configs.systems.jm3d import points_tower, text_tower, vectors

CLAIM = Claim(
    says="More shapes, filtered and enriched texts and batches of hard negatives give recognition in the open world: "
    "46.8 % of 1,156 classes of Objaverse-LVIS, 85.3 % of ModelNet40.",
    formula="`L = NCE(points, text | has text) + NCE(points, image)`, each the mean of both directions, one learned "
    "scale that starts at 14.28 and has no clamp. Hard batches: groups of k near duplicates; inside of one, logit (i, "
    "j) is left out where `⟨image_i, text_j⟩ > ⟨image_i, text_i⟩ − .1`.",
    test="tests/objectives/test_openshape.py::test_the_losses_equal_numpy",
    experiment="openshape",
    control="all shapes, raw names",
    gate="Zero-shot accuracy rises from an eighth to half to all of the shapes, and with filtered and enriched texts. "
    "What hard negatives do is reported, and no gate.",
    out="3D backbones, renders and captioners.",
)
APPROXIMATE = (
    "Groups of points are the 64 nearest to a centre; the release's lie within a radius of .2. Its tower has a class "
    "token, and no mean.",
    "876,000 shapes, 20 epochs of either phase and k = 10 are ours. The rate falls as a cosine to its value after so "
    "many steps; the release's by .967 every 10,000.",
    "Where a text is lacking nothing of its column is left out; the release's mask fits batches alone in which all "
    "have one.",
    "The deviation by which points are displaced is ours.",
    "In `:tiny` texts and pictures are trained, too, and neighbours are of pictures' pixels.",
)
EDGES = [dict(a="points", b="text"), dict(a="points", b="image")]
EPOCH = 876_000 // 200
TEXTS, IMAGES = [["name"], ["blip", "azure"], ["retrieved"]], [["thumbnail", "renders"]]


def frozen(name: str, width: int) -> dict:
    """What was made beforehand, at length 1."""
    return {
        f"{name}_embed": dict(part="embed_one", reads=[name], dim=width, raw=True),
        f"{name}_pool": dict(part="pool", reads=[f"{name}_embed"], width=width),
        f"{name}_project": dict(part="project", reads=[f"{name}_pool"], dim=width, identity=True),
    }


def picture_tower(sizes: dict, embed_dim: int) -> dict:
    """Of views of an emoji, each a token."""
    return dict(
        image_embed=dict(part="embed_one", reads=["image"], dim=sizes["dim"]),
        image_pool=dict(part="pool", reads=["image_embed"], width=sizes["dim"]),
        image_project=dict(part="project", reads=["image_pool"], dim=embed_dim),
    )


def objectives(size: int = 0, **target) -> dict:
    """size: of groups of near duplicates; 0 for other batches."""
    contrast = dict(edges=EDGES, temperature=1 / 14.28, max_scale=0.0, coef=2.0)  # the sum of two
    return dict(contrastive=contrast | (dict(target=dict(target="neighbours", size=size, **target)) if size else {}))


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict(dict(objectives=objectives(), batch_size=200, steps=20 * EPOCH))
    c.data = dict(source="files", transforms=[
        dict(transform="turned_points"),
        dict(transform="one_row", field="text", of=TEXTS),
        dict(transform="one_row", field="image", of=IMAGES),
    ])  # fmt: skip
    c.modalities = [vectors("points", 10_000, 6), vectors("text", 1, 1280), vectors("image", 1, 1280)]
    parts = points_tower(dict(dim=512, heads=8, depth=12), 1280, groups=384, neighbours=64)
    c.model = dict(model="models.network", parts=parts | frozen("text", 1280) | frozen("image", 1280))
    c.optim = dict(lr=5e-4, warmup=10_000, final_lr=0.05, b2=0.999)
    c.evals = dict(val=dict(evaluator="losses", batch_size=200, every=EPOCH))
    c.final_evals = dict(retrieval=dict(pairs=[("points", "text"), ("points", "image")]))
    hard = dict(order="neighbours", size=10, path="neighbours.npy")
    if arg:
        sizes, few = dict(dim=64, heads=4, depth=2), dict(groups=32, neighbours=16, hidden=32)
        c.data = dict(source="emoji_points", transforms=[
            dict(transform="turned_points", axis=1),
            dict(transform="text_variants", field="text", of=["name:en", "keywords"]),
        ])  # fmt: skip
        c.modalities = [vectors("points", 256, 6), text(16, field="text"), vectors("image", 4, 770)]
        c.modalities[2]["field"] = "views"
        c.model.parts = points_tower(sizes, 64, **few) | text_tower(sizes, 64) | picture_tower(sizes, 64)
        c.optim = dict(lr=2e-3, weight_decay=0.1, clip=1.0)
        tiny(c, steps=75)
        hard = dict(order="neighbours", size=8, field="views")
    c.phases = [dict(name="shuffled"), dict(name="hard", data=dict(order=hard), objectives=objectives(hard["size"]))]
    return c
