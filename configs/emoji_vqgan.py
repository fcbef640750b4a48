"""A tokenizer of emoji trained as VQGAN is (arXiv 2012.09841): convolutions, L1, a perceptual loss, a discriminator.

Pictures are compared by the image tower of another run, by default runs/siglip, where `configs/siglip_b16.py:tiny` was
trained; for another set `--config.objectives.adversarial.network.workdir` and `--config.evals.codes.network.workdir`.
"""

from configs import emoji_tokenizer
from configs.common import check_arg


def get_config(arg=""):
    check_arg(arg, __file__, ())
    c = emoji_tokenizer.get_config("rgb-vq-conv")
    c.steps = 1400  # half of them before the discriminator has a say
    c.objectives = dict(
        adversarial=dict(
            terms=dict(l1=1.0, commitment=0.02, perceptual=0.5), network=dict(workdir="runs/siglip", layers=(0, 1)),
            weight=0.05, start=700, width=32,
        )
    )  # fmt: skip
    c.evals.codes.network = dict(workdir="runs/siglip")
    c.optim.rules = [dict(pattern="^objective/adversarial/discriminator/", lr_scale=0.25)]
    return c
