"""Pixel sentence representation (Pixel-Linguist) (arXiv 2402.08183).

Carried: texts as pixels, a row of square patches of one line; contrast at a fixed temperature of a text and what says
the same; stages of perturbed texts, each from the same weights, whose mean the next ones start from, of spans of one
article, and of entailed and translated sentences in turns; similarity of sentences against that which people gave.

Each argument of PERTURBED is a run of stage 0 (`--config.load`: a workdir of PIXEL with these parts; there is no
importer of it). `python -m tools.average runs/pixel_linguist_{typos,order,both,any} --workdir=runs/pixel_linguist_0`
writes what the published size starts from, which reads folders of a `text` and the `other` that goes with it. Rated
pairs of sentences are a folder, `--config.final_evals.similarity.path`, in the place of `overlap`. `:tiny` reads the
names of emoji: perturbed, beside their keywords, and in other languages.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, tiny
from configs.systems import Claim

CLAIM = Claim(
    says="Sentences read as pixels, trained by perturbations that are seen, give competitive semantics, robust to how "
    "words are written, also across languages.",
    formula="`L = ½ (CE(S / .05) + CE(Sᵀ / .05))`, cosines of `LN(mean_n x_n)` over the patches n that show something.",
    test="tests/objectives/test_pixel_linguist.py::test_the_loss_equals_numpy",
    experiment="pixel_linguist",
    control="untrained",
    gate="Contrast of texts with mistyped and reordered ones raises Spearman's correlation with how many words two "
    "sentences share above that of the untrained network; where words are mistyped as none was in training, it is "
    "above that of word pieces under a network of equal size. The mean of two stages is reported.",
    out="The renderer of scripts beyond Latin, the multilingual data, the masked pretraining of PIXEL.",
)
APPROXIMATE = (
    "Pillow's bitmap font, of Latin-1 alone, takes the place of PangoCairo's fonts; no patch of black ends a text.",
    "How often words are mistyped, and how, is ours: each with probability .3 one of four edits. The fourth set of "
    "perturbations draws one of the three others.",
    "Steps of parallel text are those of entailed sentences; the turns, three of the latter, end with English. "
    "Warm-up, decay and the last stages' rate (3e-5) and batch (128) are from no source.",
    "Stages are chosen by STS in the release, which leaks it; here each ends after its steps.",
    "PIXEL's sizes, ViT-B/16's, are from memory; it reads three equal channels, here it is one of ink.",
    "In `:tiny` one first stage draws all perturbations, and languages are those of Latin letters.",
)
EDGES, SIDE = [dict(a="text", b="other")], 16
PERTURBED = {"typos": ["typos"], "order": ["order"], "both": ["both"], "any": ["typos", "order", "both"]}
LATIN = ("es", "fr", "de", "it", "pt", "nl", "sv")


def rendered(name: str, patches: int) -> dict:
    return dict(
        name=name, kind="rendered", shape=(patches, SIDE**2), field=name, tokenizer="bitmap", targets=False
    )  # fmt: skip


def parts(**sizes) -> dict:
    """One tower for both texts."""
    dim = sizes["dim"]
    return dict(
        text_embed=dict(part="embed_one", reads=["text", "other"], dim=dim),
        text_encoder=dict(part="encoder", reads=["text_embed"], **sizes),
        text_pool=dict(part="pool", reads=["text_encoder"], width=dim),
        text_norm=dict(part="concat", reads=["text_pool"], dim=dim, norm=True),
        text_project=dict(part="project", reads=["text_norm"], dim=dim, identity=True),
    )


def objectives() -> dict:
    return dict(contrastive=dict(edges=EDGES, temperature=0.05, learn="fixed"))


def perturbed(how) -> list:
    return [dict(transform="perturbed_text", field="text", into="other", how=how)]


def get_config(arg=""):
    check_arg(arg, __file__, (*PERTURBED, "tiny"))
    patches, sizes = (16, dict(dim=64, heads=4, depth=2)) if arg == "tiny" else (64, dict(dim=768, heads=12, depth=12))
    c = ConfigDict(dict(objectives=objectives(), modalities=[rendered(n, patches) for n in ("text", "other")]))
    c.model = dict(model="models.network", parts=parts(**sizes))
    c.evals = dict(val=dict(evaluator="losses", every=500))
    if arg == "tiny":
        return small(c)
    c.final_evals = dict(retrieval=dict(pairs=[("text", "other")]))
    c.data, c.optim = dict(source="files", transforms=[]), dict(lr=3e-5, warmup=100)
    if arg:
        c.update(dict(steps=1300, batch_size=768, load=[dict(workdir="runs/pixel_base")], optim=dict(lr=3e-6)))
        c.data.update(dict(path="data/sentences", transforms=perturbed(PERTURBED[arg])))
        return c
    c.batch_size, c.steps = 128, 2600
    c.load = [dict(workdir="runs/pixel_linguist_0")]
    stage = lambda name, folder, **more: dict(name=name, data=dict(path=f"data/{folder}"), **more)
    turns = [stage(f"{name}_{i}", name) for i in (1, 2) for name in ("nli", "parallel")]
    c.phases = [stage("spans", "wiki_spans", steps=50_500), *turns, stage("nli_3", "nli")]
    return c


def small(c):
    write = lambda field, *of: dict(transform="text_variants", field=field, of=of)
    names = lambda codes: [f"name:{code}" for code in codes]
    c.data = dict(source="emoji", transforms=[write("text", "name:en"), *perturbed(PERTURBED["any"])])
    c.optim = dict(lr=1e-3, clip=1.0)
    c.final_evals = dict(similarity=dict(modalities=["text"], overlap="keywords"))
    pairs = lambda *of: dict(transforms=[write("text", "name:en"), write("other", *of)])
    c.phases = [
        dict(name="perturbed"),
        dict(name="keywords", data=pairs("keywords")),
        dict(name="languages", data=pairs(*names(LATIN))),
    ]
    return tiny(c, steps=60)
