"""Re-ranking the context for multimodal retrieval-augmented generation (arXiv 2501.04695).

Carried: retrieval in two stages (the task `reranking`): of the nearest by cosine those, and at most so many, that a
head over pairs finds relevant enough; the threshold is chosen on other examples. The head is trained by whether two
match, beside others that are drawn by similarity (`sampled_matching`).

The published size starts from CLIP ViT-B/32 (`--config.load`: its workdir, as `tools.convert` writes it) and reads a
folder of image-text files (`--config.data.path`). `:tiny` finds scenes of coloured silhouettes of emoji by captions.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="A learned relevancy score keeps better context for generation than CLIP's cosine, and with a threshold fewer "
    "pieces where fewer are relevant.",
    formula="Of the N nearest by `cos(q, c)`: sorted by `RS(q, c) = softmax(head(q, c))_1`, at most k with `RS ≥ θ`; θ "
    "is the highest with which a share of .9 of what is relevant among the N is kept on validation. "
    "`L = contrast + M`, M: cross-entropy of matched or not, over each own pair, its q beside another c and its c "
    "beside another q, drawn with softmax(20 cos) without the own.",
    test="tests/evals/test_reranking.py::test_what_is_kept_equals_a_count_by_hand",
    experiment="rerank_rag",
    control="cosine",
    gate="Among candidates of which many are near: the head's precision above that of the cosine at the same recall of "
    "what the first stage found, and fewer pieces kept than a fixed k.",
    out="Generation, and the score of a fine-tuned vision-language model, in whose place a head is trained here.",
)
APPROXIMATE = (
    "How the score was trained, N, k and θ could not be confirmed: 20, 5 and a recall of .9 are ours, as are the head "
    "(a joint encoder over both streams), and how its negatives are drawn.",
    "Relevant is an example's own partner, or what shares a field with it; the paper asks a model.",
    "10 epochs of COCO's 118,287 pictures with a caption each, rate and layers of the head are ours.",
)
EDGES, EPOCH = [dict(a="image", b="text")], 118_287 // 256


def parts(
    picture: dict, words: dict, pair: dict, *, embed_dim: int, names=("image", "text"), how=("cls", "last"), **embed
):
    """picture, words, pair: sizes of the encoders of the two sides, and over both; how they are pooled; embed: settings
    of both embeddings."""
    tower = lambda name, sizes, how: {
        f"{name}_embed": dict(part="embed_one", reads=[name], dim=sizes["dim"], cls=how == "cls", **embed),
        f"{name}_encoder": dict(part="encoder", reads=[f"{name}_embed"], **sizes),
        f"{name}_pool": dict(part="pool", reads=[f"{name}_encoder"], how=how, width=sizes["dim"]),
        f"{name}_project": dict(part="project", reads=[f"{name}_pool"], dim=embed_dim, bias=False),
    }  # fmt: skip
    return dict(
        **tower(names[0], picture, how[0]),
        **tower(names[1], words, how[1]),
        pair=dict(part="join", reads=[f"{name}_encoder" for name in names], dim=pair["dim"]),
        pair_encoder=dict(part="encoder", reads=["pair"], **pair),
        pair_pool=dict(part="pool", reads=["pair_encoder"], how="mean", width=pair["dim"]),
        match=dict(part="predict", reads=["pair_pool"], dim=2),
    )


def objectives(edges=EDGES) -> dict:
    match = dict(objective="sampled_matching", edges=edges, head="match", scale=20.0)
    return dict(contrastive=dict(edges=edges), match=match)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict(dict(objectives=objectives(), evals=dict(val=dict(evaluator="losses", every=EPOCH))))
    c.final_evals = dict(reranking=dict(), retrieval=dict(pairs=[("image", "text")]))
    if arg:
        size = dict(dim=64, heads=4, depth=1)
        c.model = dict(model="models.network", parts=parts(size, size, size, embed_dim=16, how=("mean", "mean")))
        c.data, c.optim = dict(source="coloured_emoji"), dict(lr=2e-3, weight_decay=0.1, clip=1.0)
        c.modalities = [image(48, 16, field="picture"), text(16)]
        c.final_evals.reranking.relevant = "caption"
        return tiny(c, steps=400, warmup=40, every=200)
    clip = dict(activation="quick_gelu", eps=1e-5)
    sides = dict(dim=768, heads=12, depth=12, **clip), dict(dim=512, heads=8, depth=12, causal=True, **clip)
    pair = dict(dim=512, heads=8, depth=4)
    c.model = dict(model="models.network", parts=parts(*sides, pair, embed_dim=512))
    c.model.parts.image_embed.update(dict(norm=True, patch_bias=False, eps=1e-5))
    c.data, c.batch_size, c.steps = dict(source="files"), 256, 10 * EPOCH
    c.modalities = [image(224, 32, CLIP_MEAN, CLIP_STD), text(77, 49408, "tokenizers/clip.json")]
    c.optim = dict(lr=1e-5, warmup=EPOCH // 2, weight_decay=0.1)
    return c
