"""ADE20K semantic segmentation (4M, arXiv 2312.06647, table of its fine-tuning appendix; `:B`, `:L`, `:XL`).

    python -m pretrain.finetune --config=configs/finetune_ade20k.py:B --workdir=DIR --config.load=WORKDIR_OF_4M \
        --config.data.path=FOLDER

FOLDER: `train.jsonl` and `val.jsonl` with lines {"rgb": "x.jpg", "segments": "x.png"}; the maps hold 0…149, and 255
where ADE20K has 0, no label. XL trains LoRA of rank 64.
"""

from configs.finetune_common import by_size, lora, recipe


def get_config(arg=""):
    # From the paper, as all below unless said otherwise.
    v = by_size(
        arg, __file__, epochs=(64, 64, 128), lr=(2e-4, 2e-4, 3e-4), decay=(0.75, 0.85, 0.95),
        drop=(0.1, 0.2, 0.3), rank=(0, 0, 64),
    )  # fmt: skip
    size = 512
    c = recipe(
        epochs=v["epochs"], warmup=1,  # warm-up: ours
        images=20210,  # of the training set (SceneParse150)
        batch_size=64, lr=v["lr"], layer_decay=v["decay"], b2=0.999,  # and weight decay .05: MultiMAE's code
        shape=(size, size, 3),
        labels=dict(
            name="segments", kind="pixels", shape=(size, size, 1), field="segments", resample="nearest", vocab_size=150
        ),
        objectives=dict(
            # The head: the defaults of `dense`, MultiMAE's.
            dense=dict(inputs=["rgb@224"], grid="rgb@224", label="segments", drop_path=v["drop"])
        ),
    )  # fmt: skip
    # Large-scale jittering; the range: its paper, arXiv 2012.07177.
    c.data.transforms = [dict(transform="jitter", scales=(0.1, 2.0), flip=0.5)]
    if v["rank"]:
        c.train = lora(v["rank"])
    return c
