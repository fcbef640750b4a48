"""ImageNet-1K classification (4M, arXiv 2312.06647, table of its fine-tuning appendix; `:B`, `:L`, `:XL`).

The paper fine-tunes on ImageNet-21K first, `:B,in21k`, and goes on from there; the second stage has a head of its own.

    python -m pretrain.finetune --config=configs/finetune_imagenet.py:B,in21k --workdir=FIRST \
        --config.load=WORKDIR_OF_4M --config.data.path=FOLDER_OF_21K
    python -m pretrain.finetune --config=configs/finetune_imagenet.py:B --workdir=DIR --config.load=FIRST \
        --config.data.path=FOLDER

FOLDER: `train.jsonl` and `val.jsonl` with lines {"rgb": "train/n01440764/x.jpg", "label": 0}.
"""

from configs.common import wrong_arg
from configs.finetune_common import SIZES, by_size, recipe


def get_config(arg=""):
    size, comma, stage = arg.partition(",")
    if comma and stage != "in21k":
        raise wrong_arg(arg, __file__, f"SIZE, or SIZE,in21k for the stage before, SIZE one of {', '.join(SIZES)}")
    # From the paper, as all below unless said otherwise.
    v = by_size(
        size, __file__, epochs=(50, 20, 20), decay=(0.75, 0.85, 0.85), drop=(0.1, 0.2, 0.4),
        first_blr=(1e-4, 1e-4, 5e-5),
    )  # fmt: skip
    if stage:  # what is not here is as in the second stage (ours)
        epochs, batch_size, blr, b2 = 20, 4096, v["first_blr"], 0.95
        images, classes = 14197122, 21841  # all of ImageNet-21K, of fall 2011 (ours: the paper does not say which)
    else:
        epochs, batch_size, blr, b2 = v["epochs"], 1024, 1e-4, 0.999  # b2: MAE's code
        images, classes = 1281167, 1000  # of ILSVRC 2012's training set
    c = recipe(
        epochs=epochs, warmup=5,  # warm-up: MAE's code; not in the paper's table
        images=images, batch_size=batch_size, lr=blr * batch_size / 256, layer_decay=v["decay"], b2=b2,
        shape=(224, 224, 3),
        labels=dict(name="label", kind="labels", shape=(1,), field="label", vocab_size=classes),
        objectives=dict(
            classification=dict(
                inputs=["rgb@224"], label="label", label_smoothing=0.1, mixup=0.1, cutmix=1.0,
                drop_path=v["drop"],
            )
        ),
    )  # fmt: skip
    c.data.transforms = [
        dict(transform="crop", min_scale=0.08, ratio=(3 / 4, 4 / 3), flip=0.5),  # those of Inception and timm
        dict(transform="randaugment", ops=2, magnitude=9.0, std=0.5),  # ops: timm's usual; the paper says (9, 0.5)
    ]
    return c
