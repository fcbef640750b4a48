"""SkillNet: one model, multiple modalities, sparsely activated (arXiv 2205.06126).

Carried: one transformer whose attention all modalities share and whose MLPs are skills, each of some modalities: a
token passes through those of its modality alone.

Retrieval of pictures, clips, sounds and code by texts, over a folder of files (`--config.data.path`): clips and sounds
are rows of numbers, features of frames and log-mel frames. `:tiny` has the names of emoji and their pictures by two
designers.
"""

from ml_collections import ConfigDict

from configs import common
from configs.common import check_arg, image, text
from configs.systems import Claim

CLAIM = Claim(
    says="One sparsely activated model performs comparably to five models of one modality each (text, image, sound, "
    "video, code), with only the parameters active that a task needs.",
    formula="`h ← h + Attn(LN h)`, `h ← h + mean_{s ∈ skills(m)} FFN_s(LN h)` for a token of modality m: attention and "
    "norms common, the route given by the modality. No gate, hence no loss that balances one, and no capacity. A skill "
    "without tokens in a batch has a gradient of exactly 0.",
    test="tests/models/test_skills.py::test_a_block_equals_numpy",
    experiment="skillnet",
    control="a model a task",
    gate="R@1 of three modalities by a fourth with one SkillNet is at most a point below that of three models of one "
    "task each, with an encoder for each modality. Dense models of equal active and of equal total size, and SkillNet "
    "with a skill of all modalities beside each one's, are reported, not gated.",
    out="Its data and trained models; classification of texts, speech recognition; pretraining by modality.",
)
APPROXIMATE = (
    "No code was released: that skills are MLPs, and not projections of attention, the mean over several of them, and "
    "pre-norm blocks with common norms could not be confirmed.",
    "Sizes, optimizer and steps are ours, of BERT-base's size; the losses of its tasks could not be confirmed, and all "
    "are contrastive here.",
    "A skill of tasks across modalities could not be confirmed: `skills` may list one with their modalities.",
)


def rows(name, length, width):
    return dict(name=name, kind="vectors", shape=(length, width), field=name, targets=False)


def one_model(modalities, edges, *, dim, heads, depth, embed_dim, batch_size, steps, optim):
    """Every modality through one stack, each with a skill of its name, compared by `edges`."""
    parts = dict(
        embed=dict(part="embed", dim=dim, table_std=0.1),
        encoder=dict(part="skills", reads=["embed"], dim=dim, heads=heads, depth=depth),
        pool=dict(part="pool", reads=["encoder"], width=dim),
        project=dict(part="project", reads=["pool"], dim=embed_dim),
    )
    return ConfigDict(
        dict(
            steps=steps, batch_size=batch_size, data=dict(source="files"), modalities=modalities,
            model=dict(model="models.network", parts=parts),
            objectives=dict(contrastive=dict(edges=[dict(a=a, b=b) for a, b in edges])), optim=optim,
            evals=dict(val=dict(evaluator="losses", batch_size=256, every=2000)),
            final_evals=dict(retrieval=dict(pairs=edges)),
        )
    )  # fmt: skip


def get_config(arg=""):
    check_arg(arg, __file__)
    if arg:
        pictures = {"image": "render3d", "drawing": "noto"}
        specs = [text(16, field="name:en"), *(image(64, 8, name=n, field=f) for n, f in pictures.items())]
        edges = [("text", "image"), ("text", "drawing"), ("image", "drawing")]
        sizes = dict(dim=64, heads=4, depth=2, embed_dim=64, batch_size=64, steps=60)
        c = one_model(specs, edges, **sizes, optim=dict(lr=2e-3, weight_decay=0.05))
        c.data, c.evals.val.batch_size = dict(source="emoji"), 64
        return common.tiny(c)
    words = dict(vocab_size=30522, tokenizer="tokenizers/bert.json")
    specs = [
        text(64, **words), image(224, 16), rows("sound", 500, 80), rows("video", 16, 768),
        text(256, name="code", field="code", **words),
    ]  # fmt: skip
    edges = [("text", m["name"]) for m in specs[1:]]
    sizes = dict(dim=768, heads=12, depth=12, embed_dim=512, batch_size=512, steps=100_000)
    return one_model(specs, edges, **sizes, optim=dict(lr=1e-4, warmup=2000, weight_decay=0.01))
