"""VG-BERT: explainable semantic space by grounding language to vision (arXiv 2111.07180).

Carried: late interaction, the contrast of pictures and captions in which each word finds its best patch, without unit
length; ridge regression of what a word means from what the language tower makes of it.

The published size reads a folder of pictures and captions (`--config.data.path`), and trains the last eight of BERT's
layers and a block over the patches of a frozen network: `--config.load` says where both are. `:tiny` learns emoji and
their names from fresh weights.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="Contrast across modalities, objects found by words and bilinear relations ground the embeddings of words in "
    "dimensions that people can interpret.",
    formula="`S_ij = mean_{w ≤ n_j} max_r ⟨v_ir, t_jw⟩`, of no unit length; `L = CE(S / .1) + CE(Sᵀ / .1)`.",
    test="tests/objectives/test_vg_bert.py::test_the_loss_equals_numpy",
    experiment="vg_bert",
    control="pooled",
    gate="Where a caption names one of four things, late interaction finds a picture of it more often than pooled "
    "embeddings do. Ridge regression from grounded words tells how things look better than from the words as they "
    "were, and what they are for no worse, by .05 of r² at most.",
    out="The VGG tower, norms of people; the third stage, objects found by cross-attention (56 classes) and relations "
    "`x_iᵀ R_k x_j` of 115 kinds, for want of pictures with relations that ship.",
)
APPROXIMATE = (
    "A ViT-B/16 whose last block learns takes the place of VGG-16 with a layer of attention behind it. There is no "
    "dropout here, of .3 there; BERT's queries and keys, which the release holds still by default, learn too.",
    "A pre-LN transformer takes the place of BERT's. Texts have 32 tokens, which is from memory of captions.",
    "A cosine takes the place of a rate that halves every 15 epochs. 100 epochs of COCO's 118,287 pictures, a caption "
    "each, are from memory.",
    "The harness compares pooled embeddings: of each tower the mean of its tokens, through the same projection.",
)
EDGES, EPOCH = [dict(a="image", b="text")], 118_287 // 180


def parts(towers: dict, embed_dim: int) -> dict:
    """Two towers, each with one linear map of its tokens. towers: {modality: sizes of its encoder}."""
    found = {}
    for name, sizes in towers.items():
        found |= {
            f"{name}_embed": dict(part="embed_one", reads=[name], dim=sizes["dim"]),
            f"{name}_encoder": dict(part="encoder", reads=[f"{name}_embed"], **sizes),
            f"{name}_pool": dict(part="pool", reads=[f"{name}_encoder"], how="mean", width=sizes["dim"]),
            f"{name}_project": dict(part="project", reads=[f"{name}_pool"], dim=embed_dim, bias=True),
        }
    return found


def objectives(edges=EDGES, **changes) -> dict:
    return dict(late_interaction=dict(edges=edges, temperature=0.1, learn="fixed", directions="sum") | changes)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict()
    sizes = dict(dim=768, heads=12, depth=12)
    c.steps, c.batch_size = 100 * EPOCH, 180
    c.data = dict(source="files")
    c.modalities = [image(224, 16, CLIP_MEAN, CLIP_STD), text(32, 30522, "tokenizers/bert.json")]
    c.model = dict(model="models.network", parts=parts(dict(image=sizes, text=sizes), 768))
    c.objectives = objectives(block=36)
    c.train = [
        dict(parts=["image_project", "text_project"]), dict(pattern="_encoder/norm"),
        dict(parts=["image_encoder"], how="last", k=1), dict(parts=["text_encoder"], how="last", k=8),
    ]  # fmt: skip
    c.optim = dict(lr=5e-5, weight_decay=5e-7, b2=0.999)
    c.evals = dict(val=dict(evaluator="losses", batch_size=180, every=2000))
    c.final_evals = dict(retrieval=dict(pairs=[("image", "text")]))
    if arg:
        del c.train
        sizes = dict(dim=64, heads=4, depth=2)
        c.data, c.optim = dict(source="emoji"), dict(lr=2e-3, weight_decay=0.1, clip=1.0)
        c.modalities = [image(64, 8, field="render3d"), text(16, field="name:en")]
        c.model.parts = parts(dict(image=sizes, text=sizes), 64)
        c.objectives, c.evals.val.batch_size = objectives(), 64
        tiny(c, steps=100)
    return c
