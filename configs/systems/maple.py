"""MaPLe: multi-modal prompt learning (arXiv 2210.03117).

Carried: prompts in both towers of a frozen CLIP before each of its first blocks, those of pictures made of those of
texts; training by class texts; evaluation on base classes and on novel ones.

The published size adapts CLIP ViT-B/16 to EuroSAT, 16 shots of each base class: `--config.load` names the workdir of
CLIP (`configs/clip_b16.py`, or what `tools.convert` makes of a folder of Hugging Face), `--config.data.path` a folder
with an `image` and a `label` for every example. `:tiny` classifies emoji by their groups, and as no CLIP ships, its
towers learn too; with `--config.load` and the `train` of the published size prompts alone do.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.emoji import GROUPS
from configs.systems import Claim

CLAIM = Claim(
    says="Coupled prompts in both towers, at every early layer, adapt CLIP better than prompts in one, and carry over "
    "to classes that were not trained on: +3.45 points on novel classes, +2.72 of the harmonic mean over 11 data sets.",
    formula="`−log softmax_k(e^s z · t_k)`, s frozen, z and t_k of unit length. Layer 1: `P_1 [n, d_text]` in place of "
    "the text's n tokens after its start, `W_1 P_1 + b_1` behind the patches; layers l = 2…J: own `P_l ~ N(0, .02²)` "
    "and `W_l P_l + b_l` overwrite what layer l − 1 gave there. `H = 2bn / (b + n)`.",
    test="tests/objectives/test_class_texts.py::test_equals_numpy",
    experiment="maple",
    control="zero-shot",
    gate="Base classes are told apart better than zero-shot by prompts of texts alone, independent ones in both towers "
    "and coupled ones. Their order is reported and not gated: it takes a CLIP of the real size.",
    out="Its 11 data sets.",
)
APPROXIMATE = (
    "One epoch of a linear warm-up; the release's first epoch has a constant rate of 1e-5.",
    "Products are in bfloat16 beside float32 masters; the release trains in fp16.",
    "Linear maps start as Xavier's, each by itself; the release's as PyTorch's, those of the later layers all alike.",
    "The data set of the config, EuroSAT, the wording of its classes and their first half as base are from memory of "
    "CoOp's code, which MaPLe uses; the momentum of SGD (.9), no weight decay, and crops of .08 of a picture and more, "
    "square, are arguments that no source confirmed.",
    "In `:tiny` and the experiment texts have no start token: prompts stand in their first places. The experiment's "
    "CLIP is one of ours, 500 steps of 128 on drawn silhouettes, with prompts before two of three blocks; coupled ones "
    "come out no better than independent ones there.",
)
EUROSAT = (
    "annual crop land", "forest", "herbaceous vegetation land", "highway or road", "industrial buildings",
    "pasture land", "permanent crop land", "residential buildings", "river", "sea or lake",
)  # fmt: skip
PHOTO = (320, 1125, 539, 320)  # "a photo of a" in CLIP's vocabulary
COUPLED, INDEPENDENT, TEXTS = "coupled", "independent", "texts alone"


def parts(towers: dict, embed_dim: int, *, how=COUPLED, length=2, layers=9, at=1, words=PHOTO):
    """CLIP's parts under the names that `models.multimodal` gives them, which `config.load` finds, and prompts.

    towers: {"image", "text": sizes}. how: one of the three, or "" for no prompts. at: of the text's, behind its start.
    """
    common = dict(part="prompts", layers=layers, length=length)
    sized = {name: dict(dim=sizes["dim"]) for name, sizes in towers.items()}
    own = dict(at=at, words=words, table="text_embed") if len(words) >= length else dict(at=at)
    found, read = {}, {"image": [], "text": []}
    if how:
        found["text_prompts"] = common | sized["text"] | own
        read["text"] = ["text_prompts"]
    if how in (COUPLED, INDEPENDENT):
        found["image_prompts"] = common | sized["image"] | dict(reads=["text_prompts"] if how == COUPLED else [])
        read["image"] = ["image_prompts"]
    first = dict(image=dict(cls=True, norm=True, patch_bias=False), text={})
    how_pooled, norm = dict(image="cls", text="last"), dict(eps=1e-5)
    for n, sizes in towers.items():
        found |= {
            f"{n}_embed": dict(part="embed_one", reads=[n, *read[n]], **first[n], **norm, **sized[n]),
            f"{n}_encoder": dict(
                part="encoder", reads=[f"{n}_embed", *read[n]], activation="quick_gelu", causal=n == "text",
                **norm, **sizes,
            ),
            f"{n}_pool": dict(part="pool", reads=[f"{n}_encoder"], how=how_pooled[n], width=sizes["dim"]),
            f"{n}_project": dict(part="project", reads=[f"{n}_pool"], dim=embed_dim),
        }  # fmt: skip
    return found


# "a photo of a", as `data_pipeline.text` writes it.
WORDS = (4460, 4462, 4605, 4707, 4659, 4556, 4460, 4462)


def get_config(arg=""):
    check_arg(arg, __file__)
    c = ConfigDict()
    classes, field = (tuple(GROUPS), "group") if arg else (EUROSAT, "label")
    base = classes[: -(-len(classes) // 2)]
    c.labels = [dict(name=field, kind="labels", shape=(1,), field=field, vocab_size=len(classes), classes=classes)]
    # Named as the objective of CLIP whose scale it takes.
    c.objectives = dict(
        contrastive=dict(objective="class_texts", modality="image", text="text", label=field, among=base)
    )  # fmt: skip
    c.evals = dict(val=dict(evaluator="losses", batch_size=100))
    evaluation = dict(text="text", modalities=["image"], labels=[field], templates=["a photo of a {}."], base=base)
    if arg:
        c.data, c.optim = dict(source="emoji"), dict(lr=2e-3)
        c.modalities = [image(64, 8, field="render3d"), text(16, field="group")]
        towers = {name: dict(dim=64, heads=4, depth=2) for name in ("image", "text")}
        c.model = dict(model="models.network", parts=parts(towers, 64, layers=2, at=0, words=WORDS))
        c.evals.val.batch_size = 64
        c.final_evals = dict(base_novel=evaluation)
        return tiny(c)
    epoch = 16 * len(base) // 4
    c.steps, c.batch_size = 5 * epoch, 4
    c.data = dict(source="files", transforms=[dict(transform="crop", min_scale=0.08, flip=0.5)])
    c.modalities = [image(224, 16, CLIP_MEAN, CLIP_STD), text(77, 49408, "tokenizers/clip.json", field="label")]
    towers = dict(image=dict(dim=768, heads=12, depth=12), text=dict(dim=512, heads=8, depth=12))
    c.model = dict(model="models.network", parts=parts(towers, 512))
    c.train = [dict(parts=["text_prompts", "image_prompts"])]
    c.optim = dict(lr=3.5e-3, warmup=epoch, moments="sgd", weight_decay=0.0)
    c.final_evals = dict(base_novel=evaluation | dict(splits=["test"]))
    return c
