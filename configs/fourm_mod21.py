"""4M-21: 19 input and 17 output modalities (arXiv 2406.09406; `4m-*_mod21_500b`), started from a 4M-7 model.

`:B`, `:L`, `:XL` (or any size and blocks of fourm_common). The released configs train on a batch of 4096; the paper's
Table 6 says 8192. Set `--config.load` to the workdir of the 4M-7 model.
"""

from configs.fourm_common import base, component, parse_arg, rates
from data_pipeline.fourm import MOD21


def get_config(arg=""):
    size, model = parse_arg(arg, __file__)
    c = base(
        MOD21, model, batch_size=4096, inputs=(256, 256), targets=(256, 256), tokens=500e9, warmup_tokens=10e9,
        **rates(size),
    )  # fmt: skip
    palette = {"color_palette": "binary"}
    c.objectives.masked.mixture = [
        *(component(MOD21, a, a, keep=palette) for a in (0.01, 0.1, 1.0, 10.0)),
        component(MOD21, 0.0, 0.5, keep=palette, **{"rgb@224": (1000.0, 0.0)}),
        # From the caption, and from its T5 embedding: half as often each. The other text is then no input.
        component(
            MOD21, 0.05, 0.5, weight=0.5, keep={**palette, "caption": "all"},
            caption=(5.0, 0.0), t5_caption=(0.0, 0.0),
        ),
        component(
            MOD21, 0.05, 0.5, weight=0.5, keep={**palette, "t5_caption": "all"},
            caption=(0.0, 0.5), t5_caption=(5.0, 0.0),
        ),
    ]  # fmt: skip
    return c
