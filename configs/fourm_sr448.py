"""Super-resolution, 224 → 448 pixels: a 4M-7 L model trained on, 784 tokens a modality (`4m-l_mod7_500b--sr_448`)."""

from configs.fourm_common import base, component, parse_arg
from data_pipeline.fourm import MOD7, SIZE_448


def get_config(arg=""):
    _, model = parse_arg(arg, __file__, default="L")
    names = (*MOD7, *SIZE_448)
    c = base(
        names, model, batch_size=4096, inputs=(64, 1024), targets=(1024, 1024), tokens=100e9, warmup_tokens=5e9,
        blr=1e-4, clip=3.0,
    )  # fmt: skip
    c.model.remat = "block"

    def low(alpha, **more):  # the 224-pixel modalities and the text are never targets
        return dict.fromkeys(MOD7, (alpha, 0.0)) | more

    tokens = {"tok_rgb@224": (5.0, 0.0), "tok_rgb@448": (5.0, 5.0)}
    c.objectives.masked.mixture = [
        component(names, 0.05, 0.05, **low(0.05, **tokens)),
        component(names, 0.05, 1.0, keep={"caption": "all"}, **low(0.05, caption=(5.0, 0.0))),
        component(names, 0.2, 1.0, **low(0.2)),
        component(names, 1.0, 1.0, **low(1.0)),
    ]
    return c
