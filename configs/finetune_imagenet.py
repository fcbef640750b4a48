"""ImageNet-1K classification (4M, arXiv 2312.06647, table of its fine-tuning appendix; `:B`, `:L`, `:XL`).

    python -m pretrain.finetune --config=configs/finetune_imagenet.py:B --workdir=DIR --config.init=WORKDIR_OF_4M \
        --config.data.path=FOLDER

FOLDER: `train.jsonl` and `val.jsonl` with lines {"rgb": "train/n01440764/x.jpg", "label": 0}.
The paper first fine-tunes on ImageNet-21K: the same recipe with `:SIZE` and 20 epochs of a batch of 4096, learning rate
16 times 1e-4 (XL: 5e-5).
"""

from configs.finetune_common import by_size, recipe


def get_config(arg=""):
    # From the paper, as all below unless said otherwise.
    v = by_size(arg, "finetune_imagenet", epochs=(50, 20, 20), decay=(0.75, 0.85, 0.85), drop=(0.1, 0.2, 0.4))
    batch_size, blr = 1024, 1e-4
    c = recipe(
        path="", epochs=v["epochs"], warmup=5,  # warm-up: MAE's code; not in the paper's table
        images=1281167,  # of ILSVRC 2012's training set
        batch_size=batch_size, lr=blr * batch_size / 256, layer_decay=v["decay"], weight_decay=0.05,
        b2=0.999,  # MAE's code; the paper names 0.95 for ImageNet-21K alone
        shape=(224, 224, 3),
        labels=dict(name="label", kind="labels", shape=(1,), field="label", vocab_size=1000),
        objectives=dict(
            classification=dict(
                inputs=["rgb@224"], label="label", pool="mean", label_smoothing=0.1, mixup=0.1, cutmix=1.0,
                drop_path=v["drop"],
            )
        ),
    )  # fmt: skip
    c.data.update(min_scale=0.08, ratio=(3 / 4, 4 / 3))  # random resized crops of Inception and timm
    c.data.randaugment.update(ops=2, magnitude=9.0, std=0.5)  # ops: timm's usual number; the paper says (9, 0.5)
    return c
