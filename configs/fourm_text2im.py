"""The text-to-image specialist: a 4M-7 model trained on with captions given more often (`4m-*_spec_text2im_100b`)."""

from configs.fourm_common import base, component, parse_arg, rates
from data_pipeline.fourm import MOD7


def get_config(arg=""):
    size, model = parse_arg(arg, __file__)
    c = base(
        MOD7, model, batch_size=4096, inputs=(64, 256), targets=(256, 256), tokens=100e9, warmup_tokens=10e9,
        **rates(size),
    )  # fmt: skip
    c.objectives.masked.mixture = [
        component(MOD7, 0.05, 1.0, keep={"caption": "all"}, caption=(5.0, 1.0)),
        component(MOD7, 0.2, 1.0),
        component(MOD7, 1.0, 1.0),
    ]
    return c
