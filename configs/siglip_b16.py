"""SigLIP ViT-B/16 at 224 pixels (arXiv 2303.15343, sections 4.1 and 4.3): sigmoid loss at a batch of 32,768.

Towers as in the released checkpoint: attention pooling of the image, the last of 64 places of the text, padding seen,
32,000 pieces. lr 1e-3, weight decay 1e-4, b2 = 0.95, clip 1; Adam takes the place of the paper's ScalingViT-
Adafactor. The steps are those of 40 billion pairs; that count, the rates and b2 are from memory of the paper, the
warm-up of 20,000 steps is ours. The tokenizer is the checkpoint's, `tokenizers/siglip.json` beside you. `:tiny` runs
on the emoji corpus.
"""

from configs.common import check_arg, image, text
from configs.contrastive_common import base, tiny


def get_config(arg=""):
    check_arg(arg, __file__)
    common = dict(dim=768, heads=12, depth=12, activation="gelu_tanh")
    towers = [
        dict(name="image", modalities=("image",), pool="map", project=False, **common),
        dict(name="text", modalities=("text",), pool="last", pad_id=1, project_bias=True, **common),
    ]
    c = base(
        [image(224, 16), text(64, 32000, "tokenizers/siglip.json")], towers,
        dict(sigmoid=dict(edges=[dict(a="image", b="text")], chunk=256)),
        embed_dim=768, batch_size=32768, steps=40_000_000_000 // 32768,
        optim=dict(lr=1e-3, warmup=20_000, weight_decay=1e-4, clip=1.0),
    )  # fmt: skip
    if not arg:
        return c
    c.objectives.sigmoid.chunk = 8
    return tiny(c, dict(image="render3d", text="name:en"))
