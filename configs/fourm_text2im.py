"""The text-to-image specialist: a 4M-7 model trained on with captions given more often (`4m-*_spec_text2im_100b`)."""

from configs.fourm_common import base, component, parse_arg
from data_pipeline.fourm import MOD7


def get_config(arg=""):
    size, model = parse_arg(arg, "fourm_text2im")
    big = size == "XL"
    c = base(
        MOD7, model, batch_size=4096, inputs=(64, 256), targets=(256, 256), tokens=100e9, warmup_tokens=10e9,
        blr=2e-5 if big else 1e-4, clip=3.0 if big else 0.0,
    )  # fmt: skip
    c.objectives.masked.mixture = [
        component(MOD7, 0.05, 1.0, keep={"caption": "all"}, caption=(5.0, 1.0)),
        component(MOD7, 0.2, 1.0),
        component(MOD7, 1.0, 1.0),
    ]
    return c
