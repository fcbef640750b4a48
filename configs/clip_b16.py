"""CLIP ViT-B/16 (arXiv 2103.00020, tables 18 to 20): 32 epochs of 400 million pairs at a batch of 32,768.

config.data.path: a folder of image-text files; the tokenizer is CLIP's own, `tokenizers/clip.json` beside you (a
`tokenizer.json` of any CLIP folder on Hugging Face). `:tiny` runs on the emoji corpus.
"""

from configs.common import check_arg, image, text
from configs.contrastive_common import CLIP_MEAN, CLIP_STD, base, tiny


def get_config(arg=""):
    check_arg(arg, __file__)
    common = dict(activation="quick_gelu", eps=1e-5)
    towers = [
        dict(
            name="image", modalities=("image",), dim=768, heads=12, depth=12, pool="cls", pre_norm=True,
            patch_bias=False, **common,
        ),
        dict(name="text", modalities=("text",), dim=512, heads=8, depth=12, pool="last", causal=True, **common),
    ]  # fmt: skip
    c = base(
        [image(224, 16, CLIP_MEAN, CLIP_STD), text(77, 49408, "tokenizers/clip.json")], towers,
        dict(contrastive=dict(edges=[dict(a="image", b="text")])),
        embed_dim=512, batch_size=32768, steps=32 * 400_000_000 // 32768,
        optim=dict(lr=5e-4, warmup=2000, weight_decay=0.2, b2=0.98, eps=1e-6),
    )  # fmt: skip
    return tiny(c, dict(image="render3d", text="name:en")) if arg else c
