"""LexVLA: unified lexical representation for interpretable visual-language alignment (arXiv 2407.17827).

Carried: pictures and texts as weights of the words of one vocabulary, the most that any patch, or token, gives each; a
table of words of their own for pictures, which starts as the language model's and learns, while that one stands still;
contrast, and a penalty on words that many examples share.

There is no released code. The published size reads a folder of pictures and captions (`--config.data.path`) and starts
from a language model and DINOv2 (`--config.load`: workdirs with these parts; there is no importer of either). `:tiny`
learns emoji and their names from fresh weights.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="Frozen DINOv2 and a tuned language model meet in a sparse space of words that people can read; a penalty "
    "suppresses falsely frequent words; trained on CC-12M it retrieves better than baselines with more data.",
    formula="`s_v = max_n log(1 + relu(⟨x_n, e_v⟩))` over patches or tokens n, e the rows of a table of words, one of "
    "texts, frozen, and one of pictures; InfoNCE of s of unit length, the mean of both directions, plus λ Σ_v (mean_i "
    "s_iv)² of pictures and of texts.",
    test="tests/objectives/test_lexvla.py::test_the_loss_equals_numpy",
    experiment="lexvla",
    control="no penalty",
    gate="With the penalty pictures put less weight than without on the five most used words where these name nothing "
    "shown, more of their five first words name what is shown, also than under L1 at about as many words, and R@1 "
    "loses no 2 points.",
    out="The weights of Llama 2 and DINOv2, and CC-12M.",
)
APPROXIMATE = (
    "Activation, pooling, and the penalty's normalisation and weight were not found: log(1 + relu), maximum, of "
    "weights before unit length, .001. So were optimiser, batch, steps and temperature.",
    "Texts are pooled over their own tokens; the paper asks the language model for words by a prompt, which was not "
    "found. Low ranks of it, 16 here, are its mapper too, so that its words keep their meaning from the start.",
    "All 32,000 words of Llama 2 are there; 296 active ones at 98.27 % sparsity mean that the paper has some 17,100.",
    "Sizes of Llama 2 7B and of DINOv2's ViT-B/14 are from memory, without LayerScale; positions are learned, not "
    "rotary. A picture's mapper is a block of attention and a layer of 4096 before the last.",
    "In `:tiny` nothing is pretrained: the table of texts is the one that embeds them, and learns.",
)
LLAMA = dict(dim=4096, depth=32, heads=32, mlp_ratio=4.03125, gated=True, bias=False, eps=1e-5)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 reads pictures
DINO = dict(dim=768, depth=12, heads=12)
MODALITIES, EDGES, WORDS = ("image", "text"), [dict(a="image", b="text")], 32_000


def parts(picture: dict, words: dict, vocabulary: int, *, hidden=(), tied="", **lexical) -> dict:
    """picture, words: sizes of the encoders. hidden: of the mapper of pictures; tied: the part whose table texts have;
    lexical: more settings of both `parts.lexical`."""
    dim, lexical = words["dim"], dict(part="lexical", words="text", dim=vocabulary) | lexical
    project = dict(part="project", dim=vocabulary, identity=True)
    return dict(
        image_embed=dict(part="embed_one", reads=["image"], cls=True, dim=picture["dim"]),
        image_encoder=dict(part="encoder", reads=["image_embed"], **picture),
        image_mapper=dict(part="encoder", reads=["image_encoder"], **picture | dict(depth=1)),
        image_map=dict(part="mlp", reads=["image_mapper"], hidden=hidden, activation="gelu", dim=dim),
        image_words=dict(reads=["image_map"], **lexical),
        image_project=dict(reads=["image_words"], **project),
        text_embed=dict(part="embed_one", reads=["text"], dim=dim),
        text_encoder=dict(part="encoder", reads=["text_embed"], causal=True, **words),
        text_words=dict(reads=["text_encoder"], table=tied, **lexical),
        text_project=dict(reads=["text_words"], **project),
    )


def objectives(penalty="flops", coef=1e-3) -> dict:
    return dict(
        contrastive=dict(edges=EDGES), sparsity=dict(modalities=MODALITIES, penalty=penalty, coef=coef)
    )  # fmt: skip


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict(dict(objectives=objectives(), evals=dict(val=dict(evaluator="losses", every=2000))))
    c.final_evals = dict(retrieval=dict(pairs=[("image", "text")]))
    if arg:
        size = dict(dim=64, heads=4, depth=2)
        c.data, c.optim = dict(source="emoji"), dict(lr=2e-3, weight_decay=0.1, clip=1.0)
        c.modalities = [image(64, 8, field="render3d"), text(16, field="name:en")]
        c.model = dict(model="models.network", parts=parts(size, size, 8000, tied="text_embed", block=2000))
        return tiny(c, steps=100, every=50)
    c.data, c.batch_size, c.steps = dict(source="files"), 1024, 100_000
    c.modalities = [image(224, 14, MEAN, STD), text(64, WORDS, "tokenizers/llama2.json")]
    c.model = dict(model="models.network", parts=parts(DINO, LLAMA, WORDS, hidden=(4096,), block=2000))
    language = dict(workdir="runs/llama2_7b")
    c.load = [
        language | dict(parts=["text_embed", "text_encoder", "text_words"]),
        language | dict(parts=["text_words"], into=["image_words"]),
        dict(workdir="runs/dinov2_b14", parts=["image_embed", "image_encoder"]),
    ]
    c.train = [
        dict(parts=["text_encoder"], how="lora", rank=16, alpha=32.0),
        dict(parts=["image_mapper", "image_map", "image_words"]),
        dict(how="nothing", store="bfloat16"),
    ]
    c.optim = dict(lr=5e-4, warmup=1000)
    return c
