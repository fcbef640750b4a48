"""4M-7's masked objective and a contrastive one between image and caption on one trunk, each with a projection.

Masked budgets, mixture and optimizer as in `fourm_mod7` (arXiv 2312.06647); the contrastive term takes CLIP's learned
temperature (arXiv 2103.00020) over the pooled encoder output of whole captions and of 64 random tokens of a picture, as
FLIP drops patches (arXiv 2212.00794). The coefficient is ours. `:tiny` is a longer emoji `:tiny`, on the
quickstart's token store or another (config.data.path).
"""

from configs import emoji, fourm_mod7
from configs.contrastive_common import check_arg


def get_config(arg=""):
    check_arg(arg, "joint_fourm_clip")
    if arg:
        c = emoji.get_config("tiny")
        c.steps, c.batch_size, c.optim.warmup, c.log.every, c.checkpoint.every = 60, 32, 10, 10, 30
        c.evals.val.every = 30
        return c
    c = fourm_mod7.get_config("B")
    c.objectives.contrastive = dict(
        coef=1.0, edges=[dict(a="tok_rgb@224", b="caption"), dict(a="rgb@224", b="caption")], temperature=0.07,
        max_scale=100.0, grid_tokens=64, block=256,
    )  # fmt: skip
    c.final_evals = dict(retrieval=dict(pairs=[("rgb@224", "caption"), ("tok_rgb@224", "caption")]))
    return c
