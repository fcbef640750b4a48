"""mmE5 (arXiv 2502.08468).

Carried: one embedder of pictures and texts, read out at the last token; a mixture of tasks {instruction, query,
positive, negatives, each a picture, a text or both; language}; contrast of queries alone, whose hard negatives are
further columns of their own.

The published size starts from Llama-3.2-11B-Vision (`--config.load`: a workdir with these parts; there is no importer
of it), updates it by DoRA, and reads folders in which each line is an example of the transform `instructed`, one folder
of labelled tasks and one of synthetic ones. `:tiny` starts from nothing, on tasks among emoji in nine languages, of
which each batch holds as many of every one.
"""

from ml_collections import ConfigDict

from configs import embedder_common as embedder
from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="Synthetic data that are broad, agree across modalities and say what is true make strong embeddings of many "
    "modalities and languages.",
    formula="`L = −mean_i log exp(q_i · t_i / .02) / (Σ_j exp(q_i · t_j / .02) + Σ_k exp(q_i · n_ik / .02))`, q, t and "
    "n what the network gives at the last token, of unit length; j over the global batch, k over the negatives of "
    "query i alone, each that differs from its t and from those before it.",
    test="tests/objectives/test_mme5.py::test_the_loss_equals_numpy",
    experiment="mme5",
    control="labelled tasks",
    gate="At equal steps, R@1 on held-out things of a task that no labelled data have: with synthetic data of it above "
    "labelled tasks alone, and above the same with 30 % of its positives wrong, which gains less than 2 points.",
    out="The synthesis by a large model; cross-attention between Llama's layers and pictures.",
)
APPROXIMATE = (
    "Sizes of Llama-3.2-11B-Vision are from memory; a picture is one tile of 560 pixels, whose tokens stand before "
    "the words, where Llama's look at them by cross-attention. Positions are learned, heads have keys of their own.",
    "DoRA of all kernels of the language model, without the dropout of .1; the rate follows a cosine, not a line.",
    "The number of GPUs was not read: here 8. Accumulation is exact here, so that 128 queries look among 128; the "
    "release's is 2 a GPU, accumulated 8 times, among as many as there are GPUs times 2.",
    "20 labelled sets of 50,000, from memory, beside 560,000 synthetic examples, one epoch, each as likely.",
    "How instruction and text are joined was not read: by a line break.",
    "Too few negatives are fewer columns, and an empty text stays empty; the release repeats the last one, and gives "
    "the positive's text to the picture of a negative.",
    "In `:tiny` instructions are ours, and negatives others of the subgroup.",
)
NEGATIVES, LANGUAGES = 3, ("en", "es", "de", "ru", "ar", "hi", "sw", "zh", "ja")
LLAMA = dict(dim=4096, depth=40, heads=32, mlp_ratio=5.25, gated=True, bias=False, eps=1e-5)
VISION = dict(dim=1280, depth=40, heads=16, eps=1e-5)
SYNTHETIC, LABELLED = 560_000, 20 * 50_000
FIND = "Find the drawing of this"


def objectives(negatives: int = NEGATIVES) -> dict:
    return embedder.objectives(negatives, temperature=0.02, learn="fixed")


def tasks() -> list:
    """Five tasks of four pairs of modalities: labels in English, and the synthetic breadth of languages."""
    more = dict(negatives=NEGATIVES)
    return [
        embedder.task("picture to name", "render3d", "name", "Name what you see.", **more),
        embedder.task("name to picture", "name", "noto", f"{FIND} name.", languages=LANGUAGES, **more),
        embedder.task("keywords to picture", "keywords", "noto", f"{FIND}.", **more),
        embedder.task("picture and name to picture", "render3d+name", "noto", f"{FIND} thing.", **more),
        embedder.task("translation", "name", "name", "Find the English name.", languages=LANGUAGES[1:], **more),
    ]


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict()
    c.objectives = objectives()
    c.final_evals = dict(mixed_pool=dict(splits=["val", "test"]))
    if arg:
        embedder.on_emoji(c, tasks(), NEGATIVES)
        c.optim = dict(lr=1e-3, clip=5.0)
        c.evals = dict(val=dict(evaluator="losses", batch_size=64))
        return tiny(c, steps=120, every=60, batch_size=60)
    c.batch_size, c.accum = 8 * 2 * 8, 8
    c.steps = (SYNTHETIC + LABELLED) // c.batch_size
    folder = lambda name: dict(source="files", name=name, path=f"data/{name}")
    c.data = dict(sources=[folder("mmeb"), folder("mme5")], transforms=[dict(transform="instructed")])
    c.modalities = [image(560, 14, CLIP_MEAN, CLIP_STD), text(256, 128_264, "tokenizers/llama_3.2.json", field="text")]
    c.model = dict(model="models.network", parts=embedder.parts(VISION, LLAMA, length=2048))
    c.load = [dict(workdir="runs/llama_3.2_11b_vision")]
    still = dict(how="nothing", store="bfloat16")
    c.train = [dict(parts=["language"], how="dora", rank=8, alpha=64.0), still]
    c.optim = dict(lr=1e-5, warmup=c.steps // 20, clip=5.0, weight_decay=0.0)
    c.evals = dict(val=dict(evaluator="losses", every=2000))
    return c
