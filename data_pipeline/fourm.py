"""The modalities of 4M and 4M-21 (arXiv 2312.06647, 2406.09406; names and sizes as in apple/ml-4m).

In 4M every modality has tables of its own, also where all use one text vocabulary: `vocab` is the modality's name.
"""

import dataclasses

from data_pipeline.spec import Modality

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TEXT_VOCAB = 30000  # WordPiece


def _pixels(name, size):
    return Modality(name, "pixels", (size, size, 3), "rgb", patch=16, targets=False, fourm=name, **IMAGENET)


def _grid(name, vocab_size, side=14):
    return Modality(name, "grid", (side, side), name, name, vocab_size, tokenizer=name, fourm=name)


def _set(name):
    return Modality(name, "set", (16,), name, name, 8192, tokenizer=name, fourm=name)


def _text(name, length, chunk=1):
    return Modality(
        name, "sequence", (length,), name, name, TEXT_VOCAB, tokenizer="wordpiece", chunk=chunk, fourm=name
    )  # fmt: skip


MODALITIES = {
    m.name: m
    for m in (
        _pixels("rgb@224", 224),
        _grid("tok_rgb@224", 16384),
        _grid("tok_depth@224", 8192),
        _grid("tok_normal@224", 8192),
        _grid("tok_semseg@224", 4096),
        _grid("tok_clip@224", 8192),
        _grid("tok_canny_edge@224", 8192),
        _grid("tok_sam_edge@224", 8192),
        _grid("tok_dinov2@224", 8192, 16),
        _grid("tok_imagebind@224", 8192, 16),
        _set("tok_dinov2_global"),
        _set("tok_imagebind_global"),
        _text("caption", 256),
        _text("det", 256),
        _text("metadata", 40, chunk=2),
        _text("human_poses", 275),
        _text("color_palette", 23),
        _text("sam_instance", 290),
        Modality("t5_caption", "vectors", (77, 4096), "t5_caption", targets=False, fourm="t5_caption"),
        _pixels("rgb@448", 448),
        _grid("tok_rgb@448", 16384, 28),
        _grid("tok_depth@448", 8192, 28),
        _grid("tok_normal@448", 8192, 28),
        _grid("tok_semseg@448", 4096, 28),
        _grid("tok_clip@448", 8192, 28),
    )
}

MOD7 = ("rgb@224", "tok_rgb@224", "tok_depth@224", "tok_normal@224", "tok_semseg@224", "tok_clip@224", "caption", "det")
SIZE_448 = tuple(n for n in MODALITIES if n.endswith("@448"))
MOD21 = tuple(n for n in MODALITIES if n not in SIZE_448)


def modalities(names, **changes) -> list[dict]:
    """Specs by name as a config lists them."""
    unknown = [n for n in names if n not in MODALITIES]
    if unknown:
        raise ValueError(f"{unknown}: no modalities of 4M; there are {', '.join(MODALITIES)}")
    return [dataclasses.asdict(dataclasses.replace(MODALITIES[n], **changes)) for n in names]
