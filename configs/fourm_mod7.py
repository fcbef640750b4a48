"""4M-7: seven modalities, half of the examples rgb → all and half all → all (arXiv 2312.06647; `4m-*_mod7_500b`).

`:B`, `:L`, `:XL` (or any size and blocks of fourm_common, such as `:tiny,gelu`). 500 billion tokens at a batch of 8192
examples of 128 + 128 tokens. The paper trains XL with a fifth of the learning rate and clips its gradients at 3.
"""

from configs.fourm_common import base, component, parse_arg, rates
from data_pipeline.fourm import MOD7


def get_config(arg=""):
    size, model = parse_arg(arg, __file__)
    c = base(
        MOD7, model, batch_size=8192, inputs=(128, 128), targets=(128, 128), tokens=500e9, warmup_tokens=10e9,
        **rates(size),
    )  # fmt: skip
    only_rgb = {"rgb@224": (1000.0, 0.0)}
    c.objectives.masked.mixture = [component(MOD7, 0.0, 0.5, **only_rgb), component(MOD7, 0.5, 0.5)]
    return c
