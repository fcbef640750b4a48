"""GILL: generating images with multimodal language models (arXiv 2305.17216).

Carried: a frozen causal language model between frozen encoders; a picture enters it as four tokens, a linear layer of
its pooled encoding, and leaves it by eight [IMG] tokens, the only rows of its table that are trained, which retrieve
a picture and, through a mapper, give the text encoding that a diffusion model would read.

At full size `config.load` takes the language model and CLIP from the workdirs of runs with these parts; there is no
importer of OPT. `:tiny` starts them fresh and keeps them so, which shows that it runs, and no more:
`:language` trains them first, and `--config.load=runs/gill_language` of `:tiny` then starts from it.
"""

from ml_collections import ConfigDict

from configs import gill_common as gill
from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="A frozen language model that is mapped to a picture encoder and to the text space of a diffusion model can "
    "retrieve, generate and converse over interleaved pictures and texts.",
    formula="`L = CE(caption | 4 visual tokens) + ½ CE(caption, [IMG]_1) + InfoNCE + ½ CE(caption, [IMG]_1) + "
    "mean_m ‖y_m − t_m‖₂`. InfoNCE: the mean of both directions of `exp(s) cos(W h, V v)`, from s = log(1 / .07), no "
    "clamp, h the language model's output at the *first* [IMG], v the pooled picture. `y` = mapper(h_i + e_i), i = 1…8,"
    " e their rows: linear, 4 + 4 layers, 77 queries; t the text encoding, the distance not squared. After every step "
    "each [IMG] row takes the mean norm of the others. In each of the three passes, with probability .5 a step, every "
    "second example stands behind the one before it.",
    test="tests/objectives/test_gill.py::test_the_loss_equals_numpy",
    experiment="gill",
    control="single",
    gate="Logits of old tokens stay bit for bit, [IMG] rows keep the norm; R@1 of held-out scenes is beyond 10 times "
    "chance; trained on concatenated examples, −log p of a caption behind another example is lower than trained on "
    "single ones.",
    out="The diffusion model, dialogue, and the classifier that decides whether to retrieve or to generate.",
)
APPROXIMATE = (
    "A cosine follows the warm-up; the release divides the rate by 10 after 10,000 steps.",
    "Of 32 tokens 24 are words; a class token, as learned as OPT's start token, stands before every text, also before "
    "the second of two, from which the release takes it, and is not predicted.",
    "OPT's table is padded to 50,272 rows: [IMG] tokens are the eight behind them. In small they are tokens that no "
    "text holds, which the language model has learned never to say.",
    "Two examples in one sequence are computed as the first alone and the second behind it, which is the same.",
    "The target is the last layer of the text encoder, which reads padding as its end token, as diffusion models do.",
    "Weights start as Xavier's, not as PyTorch's, and [IMG] rows where the language model left them.",
    "No published language model or CLIP was loaded: there is no importer of OPT, and encoders are our own.",
)
IMG = tuple(range(50272, 50280))
OPT, CLIP = dict(dim=4096, depth=32, heads=32), dict(dim=1024, depth=24, heads=16)
PROMPT = dict(dim=768, depth=12, heads=12, pad_id=49407)
SMALL, SMALL_IMG = dict(dim=64, depth=2, heads=4), tuple(range(5, 13))  # [S_1] … [S_8]


def get_config(arg=""):
    check_arg(arg, __file__, ("tiny", "language"))
    return small(arg == "language") if arg else full()


def full():
    c = ConfigDict()
    c.steps, c.batch_size = 10 * 2000, 200
    c.data = dict(source="files", path="data/cc3m")
    c.modalities = [
        text(24, 50280, "tokenizers/opt.json"), image(224, 14, CLIP_MEAN, CLIP_STD),
        text(77, 49408, "tokenizers/clip.json", name="prompt"),
    ]  # fmt: skip
    mapper = dict(dim=512, depth=4, heads=4)
    parts = gill.encoders(OPT, CLIP, PROMPT, positions=2048, reads="img")
    parts |= gill.learned(IMG, mapper, width=4096, target=768, queries=77)
    c.model = dict(model="models.network", parts=parts)
    c.objectives = gill.objectives(IMG, preceded=0.5)
    c.train = gill.trained(IMG, store="bfloat16")
    c.load = [
        dict(workdir="runs/opt_6.7b", parts=["embed_text", "join", "language"]),
        dict(workdir="runs/clip_l14", parts=["image", "text"], into=["image", "prompt"]),
    ]
    c.optim = dict(lr=1e-3, warmup=2000, weight_decay=0.01, clip=1.0)
    c.evals = dict(val=dict(evaluator="losses", every=2000))
    c.final_evals = dict(retrieval=dict(pairs=[("image", "text")]))
    return c


def small(language):
    """On emoji: the run itself, or the one that makes its encoders."""
    c = ConfigDict()
    c.data = dict(source="emoji")
    c.modalities = [
        text(12, field="name:en"), image(64, 16, field="render3d"), text(12, name="prompt", field="name:en")
    ]  # fmt: skip
    reads = "embed_text" if language else "img"
    parts = gill.encoders(SMALL, SMALL, SMALL | dict(pad_id=0), positions=64, reads=reads)
    if language:
        more, c.objectives = gill.pretraining(SMALL["dim"])
    else:
        more = gill.learned(SMALL_IMG, SMALL, width=64, target=64, queries=12, embed_dim=64)
        c.objectives = gill.objectives(SMALL_IMG, preceded=0.5)
        c.train = gill.trained(SMALL_IMG, fresh=True)
    c.model = dict(model="models.network", parts=parts | more)
    c.optim = dict(lr=2e-3, weight_decay=0.01, clip=1.0)
    c.evals = dict(val=dict(evaluator="losses", batch_size=139))
    c.final_evals = dict(losses=dict(split="test", batch_size=131))
    return tiny(c, steps=150, every=75, log=25, warmup=10)
