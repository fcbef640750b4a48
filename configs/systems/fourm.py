"""4M: massively multimodal masked modeling (arXiv 2312.06647).

Carried: the encoder-decoder over tokens of many modalities, the masked objective with its budgets a modality, and
generation of any modality from any others.

The published settings are `configs/fourm_mod7.py` (`:B`, `:L`, `:XL`). `:tiny` reads the 3D picture of an emoji as
patches and five texts, and predicts the texts, without a tokenizer; `configs/fourm_tiny.py` has tokens of pictures too.
"""

from configs import fourm_mod7
from configs.common import check_arg, image, text, tiny
from configs.emoji import TEXTS
from configs.fourm_common import masked
from configs.systems import Claim

CLAIM = Claim(
    says="Masked modeling over discrete tokens of many modalities gives one model that predicts any of them from any "
    "others, and generates them.",
    formula="Loss: the mean over target modalities of the mean cross-entropy of their target tokens. Budgets: "
    "`floor(Dir(α) · n)` tokens a modality, what is left to draws from the same Dirichlet, at most what there is. "
    "Guidance: `l(∅) + Σ_i w_i (l(c_i) − l(∅))`.",
    test="tests/objectives/test_masked.py::test_loss_is_the_mean_over_modalities_of_mean_cross_entropies",
    experiment="steps",
    control="1 step",
    gate="The share of samples that are consistent throughout grows with the number of decoding steps.",
    out="Tables of transfer.",
)
APPROXIMATE = ()
WRITTEN = tuple(n for n in TEXTS if n != "palette")  # palettes are computed by `tools.tokenize`


def text_to_text(pictures, texts, *, budget, lr=4e-3):
    """4M on emoji without tokenizers: pictures as patches and texts, of which the texts are predicted."""
    specs = [image(64, 8, name=n, field=n) for n in pictures]
    specs += [text(TEXTS[n][1], name=n, field=TEXTS[n][0]) for n in texts]
    model, budgets = dict(dim=64, heads=2, encoder_depth=2, decoder_depth=2), (budget // 2, budget)
    c = tiny(masked(specs, model, steps=60, batch_size=64, inputs=budgets, targets=budgets, lr=lr))
    c.data, c.evals.val.batch_size = dict(source="emoji"), 32
    everything = dict(inputs=dict.fromkeys((*pictures, *texts), 0.5), targets=dict.fromkeys(texts, 0.5))
    from_pictures = dict(inputs=dict.fromkeys(pictures, 1.0), targets=dict.fromkeys(texts, 0.5))
    c.objectives.masked.mixture = [everything, from_pictures]
    c.final_evals = dict(nll=dict(inputs=[pictures[0], "caption"], targets=list(texts)))
    return c


def get_config(arg=""):
    check_arg(arg, __file__)
    return text_to_text(("render3d",), WRITTEN, budget=32) if arg else fourm_mod7.get_config("B")
