"""ALIGN (arXiv 2102.05918) as kakaobrain/coyo-align trains it, with transformers as towers.

A linear learned temperature that starts at 1, label smoothing 0.1, the sum of both directions; LAMB, weight decay 1e-5,
lr 2e-3 at a batch of 65,536, 300,000 steps with 40,000 of warm-up; pictures of 289 pixels, embeddings of 640. Its
towers are an EfficientNet-L2 and BERT-Large: here they are a ViT-L/17 (289 = 17²) and a transformer of BERT-Large's
size, mean and class token pooled. `:tiny` runs on the emoji corpus.
"""

from configs.common import check_arg, image, text
from configs.contrastive_common import base, tiny


def get_config(arg=""):
    check_arg(arg, __file__)
    size = dict(dim=1024, heads=16, depth=24)
    towers = [
        dict(name="image", modalities=("image",), pool="mean", **size),
        dict(name="text", modalities=("text",), pool="cls", **size),
    ]
    objective = dict(
        edges=[dict(a="image", b="text")], temperature=1.0, learn="linear", max_scale=0.0, label_smoothing=0.1,
        directions="sum", block=256,
    )  # fmt: skip
    c = base(
        [image(289, 17), text(64, 30522, "tokenizers/bert.json")], towers, dict(contrastive=objective), embed_dim=640,
        batch_size=65536, steps=300_000,
        optim=dict(lr=2e-3, warmup=40_000, weight_decay=1e-5, b2=0.999, eps=1e-6, trust_ratio=True),
    )  # fmt: skip
    if not arg:
        return c
    c.objectives.contrastive.block = 8
    c = tiny(c, dict(image="render3d", text="name:en"))
    c.optim.lr = 2e-2  # a trust ratio wants more
    return c
