"""M3EL: multi-level matching for multimodal entity linking (arXiv 2412.10440).

Carried: scores of mentions and entities by their texts and by their pictures, of the whole against the whole and
against tokens; negatives among mentions and among entities beside those across; the ranking of all entities.

The published size reads a folder of mentions, each with its entity: `mention`, `mention_image`, `entity`,
`entity_image` (`--config.data.path`), and starts from CLIP ViT-B/32 (`--config.load`). `:tiny` links emoji of one
designer, with keywords, to those of another, with names.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="Negatives of the same modality and matching across modalities in both directions improve the linking of "
    "entities on three sets.",
    formula="`L = CE(½ (S_text + S_image)) + CE(S_text) + CE(S_image) + ½ (N_text + N_image)`, rows (mentions) alone. "
    "`S_ij = ½ (⟨LN z_i, LN z_j⟩ + ⟨W z_j, LN(mean_t softmax(q_jt k_iᵀ / √96) v_i)⟩)`, z before unit length, q of the "
    "entity's tokens, k and v of the mention's. N: InfoNCE of cosines at .03, the mean of both directions, where each "
    "row has, behind its columns, .8 times its logits with all of its own side, its own set to 0.",
    test="tests/objectives/test_m3el.py::test_the_losses_equal_numpy",
    experiment="m3el",
    control="negatives across alone",
    gate="Among near duplicates mentions find their own entity first more often with negatives of the same modality "
    "than with those across alone.",
    out="The gated score across modalities, in either form, and the sets WikiMEL, RichpediaMEL, WikiDiverse.",
)
APPROXIMATE = (
    "Pictures and texts are compared in CLIP's common space; the release brings pictures to 96 numbers by layers of "
    "their own, and takes words from before CLIP's projection. Padding is seen by its attention, and not here.",
    "The mean is of two scores; the release's of three or four, those across modalities among them.",
    "A cosine takes the place of a constant rate. 18,092 mentions an epoch are from memory of WikiMEL.",
    "The harness ranks entities by the cosine of mean embeddings, not by the scores.",
    "In `:tiny` an entity is an emoji, and its mention the same one by another hand.",
)
EDGES = [dict(a="mention", b="entity"), dict(a="mention_image", b="entity_image")]
EPOCH = 18_092 // 128


def parts(towers: dict, reads: dict, embed_dim: int) -> dict:
    """CLIP's towers, under the names that `models.multimodal` gives them. towers: {"image", "text": sizes}; reads: what
    each of them reads, of mentions and of entities."""
    first = dict(image=dict(cls=True, norm=True, patch_bias=False), text={})
    found, pooled, eps = {}, dict(image="cls", text="last"), dict(eps=1e-5)
    for n, sizes in towers.items():
        found |= {
            f"{n}_embed": dict(part="embed_one", reads=reads[n], dim=sizes["dim"], **first[n], **eps),
            f"{n}_encoder": dict(
                part="encoder", reads=[f"{n}_embed"], activation="quick_gelu", causal=n == "text", **eps, **sizes
            ),
            f"{n}_pool": dict(part="pool", reads=[f"{n}_encoder"], how=pooled[n], width=sizes["dim"]),
            f"{n}_project": dict(part="project", reads=[f"{n}_pool"], dim=embed_dim),
        }
    return found


def objectives(edges=EDGES, *, dim=96, target="intra_modal") -> dict:
    return dict(
        global_local=dict(edges=edges, dim=dim),
        contrastive=dict(edges=edges, temperature=0.03, learn="fixed", target=dict(target=target)),
    )


def get_config(arg=""):
    check_arg(arg, __file__)
    c, reads = ConfigDict(), dict(image=["mention_image", "entity_image"], text=["mention", "entity"])
    towers = dict(image=dict(dim=768, heads=12, depth=12), text=dict(dim=512, heads=8, depth=12))
    c.steps, c.batch_size = 20 * EPOCH, 128
    c.data = dict(source="files", transforms=[])
    words = [text(40, 49408, "tokenizers/clip.json", name=n, field=n) for n in reads["text"]]
    c.modalities = [image(224, 32, CLIP_MEAN, CLIP_STD, n, n) for n in reads["image"]] + words
    c.model = dict(model="models.network", parts=parts(towers, reads, 512))
    c.objectives = objectives()
    c.optim = dict(lr=1e-5, b2=0.999, eps=1e-4, weight_decay=1e-4)
    c.evals = dict(val=dict(evaluator="losses", batch_size=128, every=500))
    c.final_evals = dict(
        retrieval=dict(pairs=[("mention+mention_image", "entity+entity_image")], at=[1, 3, 5, 10])
    )  # fmt: skip
    if arg:
        towers = {name: dict(dim=64, heads=4, depth=2) for name in towers}
        c.data, c.optim = dict(source="emoji"), dict(lr=2e-3, weight_decay=0.1, clip=1.0)
        looks = dict(mention_image="noto", entity_image="render3d", mention="keywords", entity="name:en")
        c.modalities = [image(64, 8, name=n, field=looks[n]) for n in reads["image"]]
        c.modalities += [text(16, name=n, field=looks[n]) for n in reads["text"]]
        c.model.parts, c.objectives = parts(towers, reads, 64), objectives(dim=32)
        c.evals.val.batch_size = 64
        tiny(c, steps=100)
    return c
