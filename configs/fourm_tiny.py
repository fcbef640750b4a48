"""4M's own model, loss and masking on the emoji corpus, in minutes: blocks, tables and budgets as in 4M-7, tiny.

Needs the token store that `make quickstart` writes (`--config.data.path`).
"""

from configs.common import check_arg
from configs.emoji import modalities
from configs.fourm_common import BLOCKS, masked


def get_config(arg=""):
    check_arg(arg, __file__, BLOCKS)
    specs = modalities()
    names = [m["name"] for m in specs]
    sizes = dict(dim=128, heads=2, encoder_depth=2, decoder_depth=2)
    c = masked(
        specs, sizes | BLOCKS[arg or "swiglu_nobias"], steps=500, batch_size=64, inputs=(32, 64), targets=(48, 48),
        lr=1e-3, warmup=50,
    )  # fmt: skip
    c.data.path = "runs/quickstart/tokens"
    c.objectives.masked.mixture = [dict(inputs=dict.fromkeys(names, 0.1), targets=dict.fromkeys(names, 0.5))]
    c.checkpoint = dict(every=250)
    c.evals.val.update(every=250, batch_size=32)
    return c
