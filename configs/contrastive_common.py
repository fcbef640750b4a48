"""What the contrastive configs share: a run of towers over image-text files, and its `:tiny` on emoji."""

from ml_collections import ConfigDict

from configs import common
from configs.common import image, text

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def base(modalities, towers, objectives, *, embed_dim, batch_size, steps, optim):
    """A run of towers over a folder of image-text files (`data_pipeline.sources.files`): give it config.data.path."""
    first, second = (m["name"] for m in modalities[:2])
    return ConfigDict(
        dict(
            steps=steps, batch_size=batch_size, data=dict(source="files"), modalities=modalities,
            model=dict(model="models.multimodal", towers=towers, embed_dim=embed_dim),
            objectives=objectives, optim=optim,
            evals=dict(val=dict(evaluator="losses", batch_size=256, every=2000)),
            final_evals=dict(retrieval=dict(pairs=[(first, second)])),
        )
    )  # fmt: skip


def tiny(c, fields):
    """The same run on the emoji corpus: every tower 64 wide and 2 layers deep.

    fields: {modality: the emoji field that takes its place}; pictures are of 64 pixels, texts of 16 tokens.
    """
    for m in c.modalities:
        where = dict(name=m["name"], field=fields[m["name"]])
        m.update(text(16, **where) if m["kind"] == "sequence" else image(64, 8, **where))
    for t in c.model.towers:
        t.update(dict(dim=64, heads=4, depth=2) | ({"pad_id": 0} if "pad_id" in t else {}))
    c.model.embed_dim, c.optim.lr, c.evals.val.batch_size = 64, 2e-3, 64
    c.data = dict(source="emoji")
    return common.tiny(c)
