"""What embedders made of a language model that reads pictures share (mmE5, MM-Embed): network, objective, emoji."""

from configs.common import image, text

STYLE = "noto"  # of the pictures that emoji tasks ask for


def parts(vision, language, *, length, hidden=(), **vision_embed):
    """Patches through a transformer of their own and layers of `hidden` widths stand before the words of a text in a
    causal language model; what it gives at the last token, which is a text's end, is the embedding. vision, language:
    dicts of their blocks (dim, depth, heads, …); length: the most tokens of a picture and a text."""
    dim = language["dim"]
    return dict(
        image_embed=dict(part="embed_one", reads=["image"], dim=vision["dim"], **vision_embed),
        image_encoder=dict(part="encoder", reads=["image_embed"], **vision),
        connector=dict(part="mlp", reads=["image_encoder"], hidden=hidden, activation="gelu", dim=dim),
        text_embed=dict(part="embed_one", reads=["text"], dim=dim, positions="none"),
        join=dict(part="sequence", reads=["connector", "text_embed"], dim=dim, length=length),
        language=dict(part="encoder", reads=["join"], causal=True, **language),
        last=dict(part="pool", reads=["language"], width=dim, how="last"),
        project=dict(part="project", reads=["last"], dim=dim, identity=True),
    )


def objectives(negatives: int, **keys) -> dict:
    """Queries among what all of the batch ask for, and as many further columns of their own. keys: of `contrastive`."""
    branches = [dict(name="query", part="project"), dict(name="positive", part="project", variant="positive")]
    variants = [f"negative{i + 1}" for i in range(negatives)]
    target = dict(target=dict(target="negatives", variants=variants)) if negatives else {}
    edges = [dict(a="query", b="positive")]
    return dict(contrastive=dict(branches=branches, edges=edges, directions="forward", **target, **keys))


def task(name, query, asks, instruction, **options) -> dict:
    """A source of a mixture of emoji tasks, each with the same weight."""
    options = dict(query=query, asks=asks, instruction=instruction) | options
    return dict(source="emoji_tasks", name=name, weight=1.0, options=options)


def on_emoji(c, tasks, negatives: int):
    """The run on tasks among emoji: towers 64 wide and 2 layers deep, pictures of 64 pixels, texts of 24 tokens."""
    size = dict(dim=64, depth=2, heads=4)
    c.data = dict(sources=tasks, transforms=[dict(transform="instructed", negatives=negatives)])
    c.modalities = [image(64, 16, field="image"), text(24, field="text")]
    c.model = dict(model="models.network", parts=parts(size, size, length=64))
    return c
