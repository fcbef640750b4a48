"""PTUnifier: towards unifying medical vision-and-language pre-training via soft prompts (arXiv 2302.08958).

Carried: pools of soft prompts. Those that are most like what an example has are its pseudo-tokens of what it lacks, and
pass through the encoder of that; so one network of two encoders and co-attention embeds a picture, a text, or both. It
learns from masked words, matching, and contrast between pictures alone and texts alone, each filled.

The published size reads pictures and their reports (`--config.data.path`, a folder of image-text files), and BERT's
tokenizer, `tokenizers/bert.json` beside you. `:tiny` runs on pictures and names of emoji.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.contrastive_common import CLIP_MEAN, CLIP_STD
from configs.systems import Claim

CLAIM = Claim(
    says="A pool of soft prompts in the place of absent modalities unifies pretraining of fusion and of dual encoders.",
    formula="`q` = mean input embedding of what is there; pseudo-tokens = the k of n entries `p` with the greatest "
    "`⟨sg q, sg p⟩`, wrapped in class and end token, through the encoder of what lacks. `L = L_words + .5 L_match + "
    ".1 L_contrast`; `L_contrast`: the mean of both directions' cross-entropies of cosines / .1, between "
    "`W_m norm([tanh(V c_text); tanh(V' c_image)])` of pictures alone and of texts alone, `c` the class tokens.",
    test="tests/objectives/test_ptunifier.py::test_the_losses_equal_numpy",
    experiment="ptunifier",
    control="one static prompt",
    gate="Of pictures alone and of names alone: a pool with gradient is no worse (.01) than one static prompt, that is "
    "better than zeros, and a frozen pool as good as that (within .02). How evenly a pool is used is reported.",
    out="Medical benchmarks, generation of reports, and masked pictures, which are optional there.",
)
APPROXIMATE = (
    "The release looks its pool up where no gradient is kept, so that it is never trained (`learn=False`). As carried, "
    "gradient passes the look-up, not the selection. Its `forward` looks for a task `cl`, its config says `itc`: as it "
    "stands that loss is not computed.",
    "Norms stand before attention and MLP, as in all blocks here; BERT's and those of co-attention there behind them. "
    "Of pictures the release takes queries, and puts pseudo-tokens in, before the norm of the embedding; here behind "
    "it. The end token behind pseudo-tokens has its own position here, the first there.",
    "The release projects both streams and adds a type before co-attention; the first layers here are each stream's "
    "own. Words have no bias in the head, whose table is the embedding's; no dropout is applied.",
    "Mismatched pairs have another text of the batch, by chance; the release's another picture of the data, in half of "
    "a batch. Single tokens are masked, not whole words.",
    "AdamW with a cosine after the warm-up; the release's falls linearly, and starts from CLIP and BERT. Settings are "
    "those of its config; its script takes CLIP-B/16 at 288 pixels and RoBERTa.",
)
SIZES = {
    "": dict(dim=768, heads=12, text=12, image=11, cross=6, pseudo=(32, 49), entries=2048),
    "tiny": dict(dim=64, heads=4, text=1, image=2, cross=1, pseudo=(8, 16), entries=128),
}


def model(dim, heads, text, image, cross, pseudo, entries, *, end, **fill):
    """The network. end: the token at the end of a text; fill: more settings of both `parts.prompt_pool`."""
    block = dict(dim=dim, heads=heads)
    embed, encode = dict(part="embed_one", dim=dim, cls=True, norm=True), dict(part="encoder", **block)
    fill, pooled = dict(part="prompt_pool", dim=dim, entries=entries, **fill), ["text_pooled", "image_pooled"]
    return dict(
        model="models.network",
        parts=dict(
            text_embed=dict(reads=["text"], **embed),
            image_embed=dict(reads=["image"], patch_bias=False, eps=1e-5, **embed),
            text_fill=dict(reads=["text_embed", "image_embed"], tokens=pseudo[0], end=end, **fill),
            image_fill=dict(reads=["image_embed", "text_embed"], tokens=pseudo[1], **fill),
            text_encoder=dict(reads=["text_fill"], depth=text, **encode),
            image_encoder=dict(reads=["image_fill"], depth=image, activation="quick_gelu", eps=1e-5, **encode),
            cross=dict(
                part="fusion", topology="co_attention", reads=["text_encoder", "image_encoder"], depth=cross, **block
            ),
            text_crossed=dict(part="pick", reads=["cross"], of="text_encoder", dim=dim),
            image_crossed=dict(part="pick", reads=["cross"], of="image_encoder", dim=dim),
            text_pooled=dict(part="pooler", reads=["text_crossed"], dim=dim),
            image_pooled=dict(part="pooler", reads=["image_crossed"], dim=dim),
            both=dict(part="concat", reads=pooled, dim=2 * dim),
            compared=dict(part="concat", reads=pooled, dim=2 * dim, norm=True),
            spoken=dict(part="transform", reads=["text_crossed"], dim=dim),
            words=dict(part="word_head", reads=["spoken"], table="text_embed"),
            match=dict(part="predict", reads=["both"], dim=2),
            project=dict(part="project", reads=["compared"], dim=dim, of=["text", "image"]),
        ),
    )


def objectives(**tokens):
    """The losses, each of passes of its own: masked words of pairs, whole texts of half mismatched ones, and each
    modality alone. tokens: `mask_id` and `special` of the text."""
    pair = dict(text="text", objects="image", regions=0.0, **tokens)
    return dict(
        words=dict(objective="masked_words", head="words", shown=pair | dict(mismatched=0.0)),
        match=dict(objective="matching", head="match", coef=0.5, shown=pair | dict(words=0.0)),
        contrast=dict(
            objective="contrastive", edges=[dict(a="image", b="text")], temperature=0.1, learn="fixed", coef=0.1
        ),
    )


def get_config(arg=""):
    check_arg(arg, __file__)
    small = arg == "tiny"
    c = ConfigDict()
    c.steps, c.batch_size = 100_000, 256
    c.data = dict(source="emoji" if small else "files")
    c.modalities = [image(224, 32, CLIP_MEAN, CLIP_STD), text(48, 30522, "tokenizers/bert.json")]
    if small:
        c.modalities = [image(64, 16, field="render3d"), text(16, field="name:en")]
    c.model = model(**SIZES[arg], end=3 if small else 102)
    # BERT's [MASK], [CLS] and [SEP]; of ours [S_0], which nothing else means, and [EOS].
    c.objectives = objectives(**dict(mask_id=4, special=[3]) if small else dict(mask_id=103, special=[101, 102]))
    fivefold = "/(text_fill|image_fill|cross|text_pooled|image_pooled|compared|spoken|match|project)/"
    c.optim = dict(lr=1e-5, warmup=10_000, b2=0.98, weight_decay=0.01, rules=[dict(pattern=fivefold, lr_scale=5.0)])
    c.evals = dict(val=dict(evaluator="losses", every=2000))
    c.final_evals = dict(retrieval=dict(pairs=[("image", "text")]))
    if small:
        c.optim = dict(lr=2e-3, weight_decay=0.1, clip=1.0)
        tiny(c, steps=250, warmup=25, every=125, log=25)
        c.final_evals.update(dict(knn=dict(modalities=["image", "text"], labels=["group"])))
    return c
