"""EVA: exploring the limits of masked visual representation learning at scale (arXiv 2211.07636).

Carried: regression of a frozen CLIP's features of masked patches, its sampler of blocks, and CLIP that starts from the
network so trained (`:clip`, `:tiny_clip`).

A teacher comes first, in the workdir `config.references.teacher.workdir`. The published one is OpenAI's CLIP-L/14:
`python -m tools.convert --read=clip-vit-large-patch14 --workdir=runs/clip_l14` (`:teacher` is its config). That of
`:tiny` is `configs/clip_b16.py:tiny` on the same emoji. Then CLIP starts from what EVA has learned:
`python -m pretrain --config=configs/systems/eva.py:tiny_clip --workdir=runs/eva_clip`.
"""

from ml_collections import ConfigDict

from configs import clip_b16
from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="A plain transformer that reconstructs the features of masked patches which a CLIP model aligned with text "
    "scales to a billion parameters and transfers widely; as the start of a CLIP tower it stabilises and speeds it up.",
    formula="`L = −mean over masked i of cos(W h_i, t_i)`. h_i: what the network says of a patch in whose place a "
    "mask token stands; W one linear layer; t_i: what a frozen teacher's projection makes of its token of that patch, "
    "behind its last norm, of the whole picture in its own normalisation. 105 of 256 patches are masked, in blocks: "
    "areas from 4 patches on, aspects of .3 to 3.3, 10 attempts for each.",
    test="tests/objectives/test_feature_regression.py::test_equals_numpy",
    experiment="eva",
    control="pixel targets",
    gate="A linear probe at 200 labels is better after an aligned teacher's targets than after pixels, and than after "
    "those of a teacher with random weights.",
    out="A billion parameters, detection and segmentation.",
)
APPROXIMATE = (
    "From memory of the paper and its release: the sizes of the network and of its MLP, 29.6 million pictures an "
    "epoch, crops of at least a fifth and flips, a cosine down to 0, W with a bias, and that what blocks leave of the "
    "105 is masked patch by patch.",
    "Weights start as Xavier's; of the release's rescaling by depth no source was at hand. The teacher's are kept in "
    "bfloat16, where EVA has fp16.",
    "`:clip` has CLIP ViT-B/16's recipe and text tower; EVA-CLIP's own could not be confirmed.",
    "In the experiment pictures and texts are simulated.",
)
# What has to be there before a run: {argument: {workdir: the config that trains it}}.
FIRST = {
    "": {"runs/clip_l14": "configs/systems/eva.py:teacher"},
    "tiny": {"runs/clip_b16_tiny": "configs/clip_b16.py:tiny"},
    "clip": {"runs/eva": "configs/systems/eva.py"},
    "tiny_clip": {"runs/eva_tiny": "configs/systems/eva.py:tiny"},
}
# MLPs of 6144 in 40 layers: 1,011 million parameters.
SIZES = {"": dict(dim=1408, heads=16, depth=40, mlp_ratio=6144 / 1408), "tiny": dict(dim=64, heads=4, depth=2)}


def get_config(arg=""):
    check_arg(arg, __file__, ("tiny", "teacher", "clip", "tiny_clip"))
    size = "tiny" if arg.startswith("tiny") else ""
    return teacher() if arg == "teacher" else clip(size) if arg.endswith("clip") else eva(size)


def eva(size):
    small, c = size == "tiny", ConfigDict()
    dim, width = SIZES[size]["dim"], 64 if small else 768  # width: of the teacher's embeddings
    (workdir,) = FIRST[size]
    c.steps, c.batch_size = 150 * 29_600_000 // 4096, 4096
    c.data = dict(source="files", transforms=[dict(transform="crop", min_scale=0.2, ratio=(3 / 4, 4 / 3), flip=0.5)])
    c.modalities = [image(64, 8, field="render3d") if small else image(224, 14, CLIP_MEAN, CLIP_STD)]
    # A tower named `image` begins alike: `:clip` loads it.
    c.model = dict(
        model="models.network",
        parts=dict(
            image_embed=dict(part="embed_one", reads=["image"], dim=dim, cls=True, masks=True),
            image_encoder=dict(part="encoder", reads=["image_embed"], **SIZES[size]),
            image_pool=dict(part="pool", reads=["image_encoder"], width=dim),
            features=dict(part="predict", reads=["image_encoder"], dim=width),
        ),
    )  # fmt: skip
    c.references = dict(teacher=dict(reference="frozen", workdir=workdir, store="bfloat16"))
    c.objectives = dict(
        feature_regression=dict(
            modality="image", head="features", teacher="teacher", masked=dict(count=105), drop_path=0.1
        )
    )  # fmt: skip
    epoch = 29_600_000 // 4096
    c.optim = dict(lr=1e-3, warmup=2 * epoch, b2=0.98, eps=1e-6, clip=3.0)
    c.evals = dict(val=dict(evaluator="losses", every=10_000))
    if small:
        c.data, c.references.teacher.store = dict(source="emoji"), "float32"
        c.objectives.feature_regression.update(dict(masked=dict(count=26), drop_path=0.0))
        tiny(c, steps=300, warmup=30, every=150, log=50)
        probe = dict(evaluator="linear_probe", modalities=["image"], labels=["group"], readouts=["pooled"])
        c.final_evals = dict(losses=dict(split="test"), probe=probe)
    return c


def clip(size):
    """CLIP whose tower of pictures starts from EVA's network."""
    c = clip_b16.get_config(size)
    (workdir,) = FIRST[f"{size}_clip".removeprefix("_")]
    # Not CLIP's own tower: no norm before its blocks, a bias of its patches.
    c.model.towers[0] = dict(name="image", modalities=("image",), pool="cls", **SIZES[size])
    if not size:
        c.modalities[0] = image(224, 14, CLIP_MEAN, CLIP_STD)
    c.load = [dict(workdir=workdir, parts=["image"])]
    return c


def teacher():
    """CLIP-L/14 (arXiv 2103.00020, table 20)."""
    c = clip_b16.get_config()
    c.modalities = [image(224, 14, CLIP_MEAN, CLIP_STD), text(77, 49408, "tokenizers/clip.json")]
    c.model.towers[0].update(dict(dim=1024, heads=16, depth=24))
    c.model.towers[1].update(dict(dim=768, heads=12))
    c.model.embed_dim = 768
    return c
