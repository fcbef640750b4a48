"""4M's own model, loss and masking on the emoji corpus, in minutes: blocks, tables and budgets as in 4M-7, tiny.

Needs the token store that `make quickstart` writes (`--config.data.path`).
"""

from configs.emoji import modalities
from configs.fourm_common import BLOCKS, base


def get_config(arg=""):
    if arg not in ("", *BLOCKS):
        raise ValueError(f"configs/fourm_tiny.py:{arg}: the argument must be empty or one of {', '.join(BLOCKS)}")
    specs = modalities()
    names = [m["name"] for m in specs]
    sizes = dict(dim=128, heads=2, encoder_depth=2, decoder_depth=2)
    c = base(
        (), sizes | BLOCKS[arg or "swiglu_nobias"], batch_size=64, inputs=(32, 64), targets=(48, 48),
        tokens=500 * 64 * 112, warmup_tokens=50 * 64 * 112, blr=4e-3,
    )  # fmt: skip
    c.modalities = specs
    c.data.path = "runs/quickstart/tokens"
    c.mesh = "ddp"
    c.objectives.masked.mixture = [dict(inputs=dict.fromkeys(names, 0.1), targets=dict.fromkeys(names, 0.5))]
    c.checkpoint.every = c.evals.val.every = 250
    c.evals.val.batch_size = 32
    return c
