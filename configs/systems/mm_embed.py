"""MM-Embed (arXiv 2411.02571).

Carried: one embedder of instructions, pictures and texts that looks in one pool of all modalities; its second stage
learns beside negatives that the first one's run mined: of the wrong modality before the right answer, and of the right
one far behind; a third adds tasks of texts.

The published size starts from LLaVA-NeXT-Mistral-7B (`--config.load`: a workdir with these parts; there is no importer
of it), its tower of pictures frozen, and reads a folder of tasks (transform `instructed`). When that run is over,
`python -m tools.mine_negatives --checkpoint=runs/mm_embed --path=data/mm_embed_mined` writes the folder that `:hard`
reads, which starts from the pretrained model again; its second phase is the third stage. `:tiny` and `:tiny_hard` are
the first two from nothing, on tasks among emoji, with the folder runs/mm_embed_tiny_mined between them.
"""

from ml_collections import ConfigDict

from configs import embedder_common as embedder
from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="Retrievers made of multimodal language models prefer texts; hard negatives that know modalities, and text "
    "retrieval thereafter, mend it.",
    formula="`L = −mean_i log exp(q_i · c_i / τ) / (Σ_j exp(q_i · c_j / τ) + Σ_k exp(q_i · n_ik / τ))`, of unit "
    "length, j over the batch of all tasks, `n_i` mined: of the first stage's 50 nearest to q_i one of another "
    "modality than c_i's that lies nearer than c_i, and one of c_i's behind the first 45.",
    test="tests/objectives/test_mm_embed.py::test_the_loss_equals_numpy",
    experiment="mm_embed",
    control="one task a batch, random negatives",
    gate="In one pool of pictures and texts, R@1, and how often the nearest is of the right modality: mined negatives "
    "above random ones; in R@1 batches of all tasks above those of one, and mined negatives beside them above none. In "
    "the pool of the right modality alone no condition loses 2 points.",
    out="The language model that reranks the first ten; NV-Embed as the backbone; the benchmarks.",
)
APPROXIMATE = (
    "τ and the number of negatives of a query were not found: .05, and one of either sort. So were the ranks of the "
    "right modality, behind 45 of 50, in two accounts, of which one is a reimplementation.",
    "Sizes of LLaVA-NeXT-Mistral-7B are from memory; a picture is one tile of 336 pixels, of which the last layer of "
    "CLIP and its class token are read. Positions are learned, heads have keys of their own. Low ranks are of all "
    "kernels of the language model.",
    "Weight decay, warm-up and schedule were not read: none, 3 % of the steps, a cosine.",
    "The third stage's sets of texts are one folder, drawn half of the time.",
    "In `:tiny` and `:tiny_hard` instructions are ours, and nothing is pretrained.",
)
QUERIES, STEPS_OF_TEXTS, TEMPERATURE = 1_100_000, 4500, 0.05
MISTRAL = dict(dim=4096, depth=32, heads=32, mlp_ratio=5.25, gated=True, bias=False, eps=1e-5)
CLIP = dict(dim=1024, depth=24, heads=16, eps=1e-5, activation="quick_gelu")
MINED, SMALL_MINED = "data/mm_embed_mined", "runs/mm_embed_tiny_mined"


def objectives(negatives: int, temperature: float = TEMPERATURE) -> dict:
    return embedder.objectives(negatives, temperature=temperature, learn="fixed")


def tasks(**more) -> list:
    """Texts and pictures ask for texts and for pictures: the instruction alone tells which."""
    task = lambda name, query, asks, says: embedder.task(name, query, asks, says) | more
    return [
        task("picture to picture", "render3d", "noto", "Find the same as a drawing."),
        task("picture to text", "render3d", "keywords", "Find words for this."),
        task("text to picture", "name", "noto", "Find a drawing of this."),
        task("text to text", "name", "keywords", "Find words for this name."),
    ]


def get_config(arg=""):
    check_arg(arg, __file__, ("hard", "tiny", "tiny_hard"))
    c, negatives = ConfigDict(), 2 if arg.endswith("hard") else 0
    c.objectives = objectives(negatives)
    c.final_evals = dict(mixed_pool=dict(splits=["val", "test"]))
    return small(c, negatives) if arg.startswith("tiny") else full(c, negatives)


def full(c, negatives):
    c.batch_size = 8 * (64 if negatives else 128)
    c.steps = 2 * QUERIES // c.batch_size
    folder = lambda path, **more: dict(source="files", name=path.rpartition("/")[2], path=path, **more)
    mined = folder(MINED if negatives else "data/m_beir", weight=1.0)
    c.data = dict(sources=[mined], transforms=[dict(transform="instructed", negatives=negatives)])
    c.modalities = [image(336, 14, CLIP_MEAN, CLIP_STD), text(128, 32_000, "tokenizers/mistral.json", field="text")]
    vision = dict(cls=True, norm=True, patch_bias=False, eps=1e-5)
    c.model = dict(model="models.network", parts=embedder.parts(CLIP, MISTRAL, length=1024, hidden=(4096,), **vision))
    c.load = [dict(workdir="runs/llava_next_mistral_7b")]
    low = dict(parts=["language"], how="lora", rank=8, alpha=64.0)
    c.train = [dict(parts=["connector"]), low, dict(how="nothing", store="bfloat16")]
    c.optim = dict(lr=1e-4, warmup=3 * c.steps // 100, weight_decay=0.0)
    c.evals = dict(val=dict(evaluator="losses", every=2000))
    if negatives:
        more = dict(sources=[mined, folder("data/text_retrieval", weight=1.0)])
        later = dict(name="texts", steps=STEPS_OF_TEXTS, data=more, optim=dict(lr=2e-5, warmup=0))
        c.phases = [dict(name="hard", steps=c.steps), later]
    return c


def small(c, negatives):
    held = tasks(splits=("val", "test")) if negatives else tasks()
    mined = [dict(source="files", name="mined", path=SMALL_MINED, weight=1.0, splits=("train",))] if negatives else []
    embedder.on_emoji(c, mined + held, negatives)
    c.optim = dict(lr=1e-3)
    c.evals = dict(val=dict(evaluator="losses", batch_size=64))
    return tiny(c, steps=120, every=60)
