"""NYUv2 depth (4M, arXiv 2312.06647, table of its fine-tuning appendix; `:B`, `:L`, `:XL`).

    python -m pretrain.finetune --config=configs/finetune_nyuv2.py:B --workdir=DIR --config.load=WORKDIR_OF_4M \
        --config.data.path=FOLDER

FOLDER: `train.jsonl` and `val.jsonl` with lines {"rgb": "x.jpg", "depth": "x.png"}; a depth map holds millimetres in 16
bits, or is an RGB image whose pixel (r, g, b) says r · 65536 + g · 256 + b of them; 0 where it is unknown. XL trains
LoRA of rank 8.
"""

from configs.finetune_common import by_size, lora, recipe


def get_config(arg=""):
    # From the paper, as all below unless said otherwise.
    v = by_size(
        arg, __file__, lr=(1e-4, 1e-4, 5e-5), batch_size=(128, 128, 16), decay=(0.75, 0.85, 0.9),
        rank=(0, 0, 8),
    )  # fmt: skip
    size = 256
    c = recipe(
        epochs=1000, warmup=100,
        images=795,  # of the labelled training set
        batch_size=v["batch_size"], lr=v["lr"], layer_decay=v["decay"], weight_decay=1e-4, b2=0.999,  # b2: ours
        shape=(size, size, 3),
        labels=dict(
            name="depth", kind="pixels", shape=(size, size, 3), field="depth", resample="nearest",
            range=(0, 256**3 - 1),  # the millimetres themselves, in three digits
        ),
        objectives=dict(
            # The head: the defaults of `dense`, MultiMAE's, as is its loss berHu.
            dense=dict(inputs=["rgb@224"], grid="rgb@224", label="depth", loss="berhu")
        ),
    )  # fmt: skip
    c.data.transforms = [dict(transform="crop", min_scale=0.5, flip=0.5)]  # ours
    if v["rank"]:
        c.train = lora(v["rank"])
    return c
