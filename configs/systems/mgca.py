"""MGCA: multi-granularity cross-modal alignment (arXiv 2210.06044).

Carried: contrast of pictures and reports, summed over both directions; contrast of words and patches inside an example,
each with what it attends to in the other modality; prototypes, to which both are assigned by Sinkhorn's algorithm over
the global batch, and each predicts the other's.

The published size reads a folder of radiographs and reports (`--config.data.path`). It starts from a ViT-B/16 and a
BERT (`--config.load`), else from fresh weights. `:tiny` learns emoji and their names.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="Alignment of regions with words, of instances and of diseases, of radiographs and reports, beats alignment "
    "at one level on seven downstream sets.",
    formula="`L = CE(S / .07) + CE(Sᵀ / .07) + .7 (local(W, P) + local(P, W)) + .5 · ½ (CE(Q_img, softmax(s_txt / "
    ".2)) + CE(Q_txt, softmax(s_img / .2)))`. `local(W, P)`: `O = unit(softmax(W Pᵀ / .1) P)`, `S' = W Oᵀ / .1` inside "
    "an example, the mean of the cross-entropies of rows and of columns, own places the target, weighted by what the "
    "class token attends to in the last block: the mean over heads, clipped to its quantiles .1 and .9, of sum 1, "
    "without gradient. s: cosines with 500 prototypes; `Q = sinkhorn(s / .05)`, no gradient: 3 times prototypes are "
    "brought to equal sums, then examples. Prototypes stand still in the first epoch.",
    test="tests/objectives/test_mgca.py::test_the_losses_equal_numpy",
    experiment="mgca",
    control="global alone",
    gate="The patch that is most like a word is the one that the word names: above chance, and above global contrast "
    "alone, also where the whole and its tokens have one head. What prototypes gain in the purity of neighbours is "
    "reported, not gated: in toys it hangs on the number of classes.",
    out="Radiographs, and the tasks that the model is transferred to.",
)
APPROXIMATE = (
    "Heads are linear, ReLU, linear; the release has batch normalisation behind both layers.",
    "Word pieces stand for themselves; the release adds those of a word up. Padding is no negative of a word here; "
    "there it is, though no loss of its own. Under a ViT the patches' O there keeps its length; here it is 1.",
    "Contrast is over the global batch; the release's is over what one of two devices holds. Its Sinkhorn is over all.",
    "The release overwrites prototypes with their unit vectors before each step; here they are normalised where they "
    "are used. It weighs its losses by 1, .7 and .5 in the class, as here, and by 1 each on its command line.",
    "217,000 pairs an epoch, texts of 112 tokens and crops of .6 of a picture and more are from memory. The release "
    "stops early; here all of its 50 epochs are taken.",
)
EDGES, EPOCH = [dict(a="image", b="text")], 217_000 // 144


def parts(towers: dict, embed_dim: int, hidden: int) -> dict:
    """Two towers with class tokens, each with a head of the whole, NAME_project, and one of every token, NAME_tokens.

    towers: {modality: sizes of its encoder}. hidden: width of the heads' inner layer.
    """
    found, head = {}, dict(hidden=[hidden], dim=embed_dim)
    for name, sizes in towers.items():
        found |= {
            f"{name}_embed": dict(part="embed_one", reads=[name], cls=True, dim=sizes["dim"]),
            f"{name}_encoder": dict(part="watched_encoder", reads=[f"{name}_embed"], **sizes),
            f"{name}_pool": dict(part="pool", reads=[f"{name}_encoder"], how="cls", width=sizes["dim"]),
            f"{name}_project": dict(part="project", reads=[f"{name}_pool"], **head),
            f"{name}_tokens": dict(part="mlp", reads=[f"{name}_encoder"], **head),
        }
    return found


def objectives(edge=EDGES[0], *, prototypes=500, frozen_steps=EPOCH) -> dict:
    """The three losses of a pair of modalities."""
    a, b = edge["a"], edge["b"]
    return dict(
        contrastive=dict(edges=[edge], temperature=0.07, learn="fixed", directions="sum"),
        token_contrast=dict(a=f"{a}_tokens", b=f"{b}_tokens", coef=0.7),
        prototypes=dict(edges=[edge], prototypes=prototypes, frozen_steps=frozen_steps, coef=0.5),
    )


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict()
    sizes = dict(dim=768, heads=12, depth=12)
    c.steps, c.batch_size = 50 * EPOCH, 144
    c.data = dict(source="files", transforms=[dict(transform="crop", min_scale=0.6)])
    c.modalities = [image(224, 16), text(112, 28996, "tokenizers/bio_clinical_bert.json")]
    c.model = dict(model="models.network", parts=parts(dict(image=sizes, text=sizes), 128, 2048))
    c.objectives = objectives()
    c.optim = dict(lr=2e-5, warmup=int(0.4 * c.steps), b2=0.999)
    c.evals = dict(val=dict(evaluator="losses", batch_size=144, every=2000))
    c.final_evals = dict(retrieval=dict(pairs=[("image", "text")]))
    if arg:
        sizes = dict(dim=64, heads=4, depth=2)
        c.data, c.optim = dict(source="emoji"), dict(lr=2e-3, weight_decay=0.1, clip=1.0)
        c.modalities = [image(64, 8, field="render3d"), text(16, field="name:en")]
        c.model.parts = parts(dict(image=sizes, text=sizes), 64, 128)
        c.objectives = objectives(prototypes=32, frozen_steps=20)
        c.evals.val.batch_size = 64
        tiny(c, steps=100)
    return c
