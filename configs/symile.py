"""Symile (arXiv 2411.01053) over three modalities that frozen encoders made into vectors, as in Symile-M3.

Audio by Whisper-large-v3 (1280 numbers), images by CLIP ViT-L/14 (1024), text by XLM-RoBERTa-large (1024) (from
memory of the paper: set the widths to those of your encoders), each under a linear projection of its own; negatives
by independent shuffling, what an example lacks in place of a learned vector. Weight decay 0.01 is the code's default;
width, batch and rate are ours. `:tiny` contrasts the pictures of two designers and the English names of the emoji
corpus, with towers that learn.
"""

from configs.common import check_arg, image, text
from configs.contrastive_common import base, tiny

WIDTHS = {"audio": 1280, "image": 1024, "text": 1024}


def get_config(arg=""):
    check_arg(arg, __file__)
    modalities = [dict(name=n, kind="vectors", shape=(1, w), field=n, targets=False) for n, w in WIDTHS.items()]
    towers = [
        dict(name=n, modalities=(n,), dim=w, heads=1, depth=0, positions="none", project_bias=True)
        for n, w in WIDTHS.items()
    ]
    objective = dict(group=tuple(WIDTHS), missing="learn", block=256)
    optim = dict(lr=1e-3, warmup=500, weight_decay=0.01)
    if not arg:
        return base(
            modalities, towers, dict(symile=objective), embed_dim=1024, batch_size=4096, steps=20_000, optim=optim
        )
    names = dict(image="render3d", other="noto", text="name:en")
    towers = [
        dict(name="image", modalities=("image", "other"), pool="ggem"),
        dict(name="text", modalities=("text",), pool="last", causal=True),
    ]
    modalities = [image(64, 8), image(64, 8, name="other"), text(16)]
    objective |= dict(group=tuple(names), block=8)
    c = base(modalities, towers, dict(symile=objective), embed_dim=64, batch_size=64, steps=60, optim=optim)
    return tiny(c, names)
