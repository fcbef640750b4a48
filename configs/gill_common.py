"""What GILL's network is made of: three encoders that stay as they are, and what is learned between them."""


def encoders(language, image, prompt, *, positions, reads):
    """A causal language model over `text`, and transformers over `image` and `prompt`: what is pretrained.

    Each a dict of its blocks (dim, depth, heads, …); positions: the most slots of a sequence; reads: what the language
    model reads where nothing stands before it.
    """
    width, eps = language["dim"], 1e-5
    more = dict(eps=eps, activation="quick_gelu")
    pad = dict(pad_id=prompt["pad_id"])
    prompt = {k: v for k, v in prompt.items() if k != "pad_id"}
    return dict(
        embed_text=dict(part="embed_one", reads=["text"], dim=width, cls=True, positions="none"),
        join=dict(part="sequence", reads=[reads], dim=width, length=positions),
        language=dict(part="encoder", reads=["join"], causal=True, activation="relu", eps=eps, **language),
        previous=dict(part="previous", reads=["language"], dim=width),
        words=dict(part="word_head", reads=["previous"], table="embed_text"),
        image_embed=dict(
            part="embed_one", reads=["image"], dim=image["dim"], cls=True, norm=True, patch_bias=False, eps=eps
        ),
        image_encoder=dict(part="encoder", reads=["image_embed"], **image, **more),
        image_pool=dict(part="pool", reads=["image_encoder"], width=image["dim"], how="cls"),
        prompt_embed=dict(part="embed_one", reads=["prompt"], dim=prompt["dim"], **pad),
        prompt_encoder=dict(part="encoder", reads=["prompt_embed"], causal=True, **prompt, **more),
    )  # fmt: skip


def learned(rows, mapper, *, width, target, queries, tokens=4, embed_dim=256):
    """What GILL trains: `visual` tokens, the [IMG] tokens behind a text, two projections, and the mapper to `target`
    numbers of each of `queries` tokens. width: of the language model."""
    first, dim = -len(rows), mapper["dim"]
    more = dict(activation="relu", eps=1e-5, **mapper)
    return dict(
        img=dict(part="append", reads=["embed_text"], rows=rows, dim=width),
        visual=dict(part="pseudo_tokens", reads=["image_pool", "image_encoder"], tokens=tokens, dim=width),
        image_project=dict(part="project", reads=["image_pool"], dim=embed_dim, bias=True),
        first_img=dict(part="token", reads=["language"], at=first, dim=width),
        text_project=dict(part="project", reads=["first_img"], dim=embed_dim, bias=True),
        all_img=dict(part="tail", reads=["language", "img"], tokens=len(rows), dim=dim),
        mapper_encoder=dict(part="encoder", reads=["all_img"], **more),
        mapper=dict(part="resampler", reads=["mapper_encoder"], queries=queries, **more),
        mapped=dict(part="predict", reads=["mapper"], dim=target),
    )


def objectives(rows, preceded):
    """Three passes, each of which draws for itself whether examples stand behind others, and the rows' length."""
    read = lambda draw, *parts: dict(join="join", segments=list(parts), preceded=preceded, draw=draw)
    retrieved, generated = read("retrieved", "img"), read("generated", "img")
    edges = [dict(a="image", b="text")]
    return dict(
        caption=dict(objective="next_token", sequence=read("captioned", "visual", "embed_text")),
        retrieve_words=dict(objective="next_token", sequence=retrieved, coef=0.5),
        retrieve=dict(objective="sequence_contrast", sequence=retrieved, edges=edges, max_scale=0.0),
        generate_words=dict(objective="next_token", sequence=generated, coef=0.5),
        generate=dict(objective="token_distance", sequence=generated, found="mapped", target="prompt_encoder"),
        norms=dict(objective="row_norms", part="embed_text", rows=rows),
    )


def trained(rows, **how):
    """The rules: of the encoders the [IMG] rows alone, of the rest all. how: what stays is kept."""
    still = ["embed_text", "join", "language", "image_embed", "image_encoder", "prompt"]
    fresh = {k: v for k, v in how.items() if k == "fresh"}
    return [
        dict(parts=["embed_text"], how="rows", only="table", rows=rows, **fresh),
        dict(parts=still, how="nothing", **how),
        dict(),
    ]


def pretraining(dim):
    """(parts, objectives) of a run that makes the three encoders: next words of texts, some of which follow another,
    and pictures beside prompts."""
    align = dict(part="project", dim=dim)
    parts = dict(
        prompt_pool=dict(part="pool", reads=["prompt_encoder"], width=dim, how="last"),
        align_image=dict(reads=["image_pool"], **align), align_prompt=dict(reads=["prompt_pool"], **align),
    )  # fmt: skip
    sequence = dict(join="join", segments=["embed_text"], preceded=0.5)
    return parts, dict(
        next_token=dict(sequence=sequence), contrastive=dict(edges=[dict(a="image", b="prompt")]),
    )  # fmt: skip
