"""JM3D / JM3D-LLM (arXiv 2310.09503).

Carried: a tower of points beside frozen embeddings of texts and of pictures from many sides; pictures pooled by what
the text asks for; three contrastive edges under one scale; a classifier of the parent category.

The published size reads a folder (`--config.data.path`) of arrays, those of texts and pictures made by CLIP beforehand:
`points` [8192, 3], `text`, 64 prompts of one sub-category at length 1, `views`, each the number of its side and of its
kind and 512 numbers, and `parent`, one of 55. `:tiny` reads silhouettes of emoji, blown up to clouds of coloured
points, their names, and small pictures of them by four other designers.
"""

from ml_collections import ConfigDict

from configs import emoji
from configs.common import check_arg, text, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="Pictures from many sides, texts of two levels, and pictures weighted by the text align points better than "
    "one picture and one text do; what is learned serves a language model.",
    formula="`L = Σ ½ (CE_rows + CE_columns)` over points~text, points~picture and text~picture, one learned scale, "
    "plus ½ CE of a linear layer on the points' embedding before its unit length. A picture is "
    "`Σ_n w_n unit(LN(v_n + side + kind))`, `w = softmax_n ⟨unit(v_n), text⟩`, not brought to unit length.",
    test="tests/objectives/test_jm3d.py::test_the_losses_equal_numpy",
    experiment="jm3d",
    control="without the parent",
    gate="The group of an emoji is told better by points with the parent's classifier than without; views of the thing "
    "itself weigh more than views of others. What weights do for retrieval is reported, and no gate.",
    out="PointMLP and PointNet++, the soft labels, whose release is wrong, and the language model.",
)
APPROXIMATE = (
    "The tower of points is Point-BERT's, with a mean over tokens, without its class token and maximum, and no batch "
    "normalisation inside of groups; its sizes are from memory of ULIP.",
    "The classifier's cross-entropy is of its logits; the release takes softmax and ReLU before it.",
    "Four views and 52,470 models of ShapeNet55 are from memory; the rate is PointMLP's, others' go up to 3e-3. The "
    "scale is clamped as it is used, not behind each step.",
    "In `:tiny` texts and pictures are trained, too, and 'sides' are designers.",
)
EDGES = [dict(a="points", b="text"), dict(a="points", b="picture"), dict(a="text", b="picture")]
EPOCH = 52_470 // 512
GROUPS = sorted(emoji.GROUPS)


def points_tower(sizes: dict, embed_dim: int, **groups) -> dict:
    return dict(
        points_embed=dict(part="point_groups", reads=["points"], dim=sizes["dim"], **groups),
        points_encoder=dict(part="encoder", reads=["points_embed"], **sizes),
        points_pool=dict(part="pool", reads=["points_encoder"], width=sizes["dim"]),
        points_project=dict(part="project", reads=["points_pool"], dim=embed_dim),
    )


def text_tower(sizes: dict, embed_dim: int) -> dict:
    return dict(
        text_embed=dict(part="embed_one", reads=["text"], dim=sizes["dim"]),
        text_encoder=dict(part="encoder", reads=["text_embed"], **sizes),
        text_pool=dict(part="pool", reads=["text_encoder"], width=sizes["dim"]),
        text_project=dict(part="project", reads=["text_pool"], dim=embed_dim),
    )


def frozen_text(embed_dim: int) -> dict:
    """The mean of prompts, at length 1."""
    return dict(
        text_embed=dict(part="embed_one", reads=["text"], dim=embed_dim, raw=True),
        text_pool=dict(part="pool", reads=["text_embed"], width=embed_dim),
        text_project=dict(part="project", reads=["text_pool"], dim=embed_dim, identity=True),
    )


def views(width: int, embed_dim: int, **settings) -> dict:
    """width: of a view with both of its numbers."""
    return dict(
        views_embed=dict(part="embed_one", reads=["views"], dim=width, raw=True),
        view_pool=dict(part="view_pool", reads=["views_embed", "text_project"], dim=embed_dim, **settings),
    )


def objectives(label: str) -> dict:
    branches = [dict(name="picture", part="view_pool")]
    contrast = dict(objective="contrastive", edges=EDGES, branches=branches, coef=3.0)  # the sum of three
    parent = dict(objective="identification", modalities=["points"], label=label, coef=0.5)
    return dict(contrastive=contrast, parent=parent)


def vectors(name: str, *shape) -> dict:
    return dict(name=name, kind="vectors", shape=shape, field=name, targets=False)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict(dict(objectives=objectives("parent"), batch_size=512, steps=250 * EPOCH))
    c.data = dict(source="files", transforms=[])
    c.modalities = [vectors("points", 8192, 3), vectors("text", 64, 512), vectors("views", 4, 514)]
    c.labels = [dict(name="parent", kind="labels", shape=(1,), field="parent", vocab_size=55)]
    parts = points_tower(dict(dim=384, heads=6, depth=12), 512) | frozen_text(512) | views(514, 512)
    c.model = dict(model="models.network", parts=parts)
    c.optim = dict(lr=1e-3, warmup=EPOCH, final_lr=0.01, b2=0.98, weight_decay=0.1)
    c.evals = dict(val=dict(evaluator="losses", batch_size=512, every=EPOCH))
    c.final_evals = dict(retrieval=dict(pairs=[("points", "text")]))
    if arg:
        sizes = dict(dim=64, heads=4, depth=2)
        c.data.source = "emoji_points"
        c.modalities = [vectors("points", 256, 6), text(16, field="name:en"), vectors("views", 4, 770)]
        c.labels[0].update(field="group", vocab_size=len(GROUPS), classes=GROUPS)
        few = dict(groups=32, neighbours=16, hidden=32)
        c.model.parts = points_tower(sizes, 64, **few) | text_tower(sizes, 64) | views(770, 64, degrees=4)
        c.optim, c.evals.val.batch_size = dict(lr=2e-3, weight_decay=0.1, clip=1.0), 64
        tiny(c, steps=150)
    return c
