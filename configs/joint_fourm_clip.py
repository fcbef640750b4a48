"""4M-7's masked objective and a contrastive one between image and caption on one trunk, each with a projection.

Masked budgets, mixture and optimizer as in `fourm_mod7` (arXiv 2312.06647); the contrastive term takes CLIP's learned
temperature (arXiv 2103.00020) over the pooled encoder output of whole captions and of 64 random tokens of a picture, as
FLIP drops patches (arXiv 2212.00794). The coefficient is ours. `:tiny` is a longer emoji `:tiny`, on the
quickstart's token store or another (config.data.path).
"""

from configs import emoji, fourm_mod7
from configs.common import check_arg, tiny


def get_config(arg=""):
    check_arg(arg, __file__)
    if arg:
        return tiny(emoji.get_config("tiny"), batch_size=32)
    c = fourm_mod7.get_config("B")
    c.objectives.contrastive = dict(
        edges=[dict(a="tok_rgb@224", b="caption"), dict(a="rgb@224", b="caption")], grid_tokens=64, block=256
    )
    c.final_evals = dict(retrieval=dict(pairs=[("rgb@224", "caption"), ("tok_rgb@224", "caption")]))
    return c
