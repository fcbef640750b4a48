"""`config.json` and `preprocessor_config.json` of CLIP and SigLIP folders, and our config of two towers and specs."""

import dataclasses
import json
from pathlib import Path

from data_pipeline.spec import Modality
from pretrain.interop import tokenizer_json
from pretrain.models import multimodal, tower

CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
SECTIONS = {"image": "vision_config", "text": "text_config"}
ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh"}  # theirs: ours

# What a class fixes of a tower; all else of `tower.Config` is free.
ALWAYS = dict(positions="learned", bias=True)
SETTINGS = {
    "clip": {
        "image": dict(pool="cls", causal=False, pre_norm=True, patch_bias=False, project=True, project_bias=False),
        "text": dict(pool="last", causal=True, pre_norm=False, pad_id=-1, project=True, project_bias=False),
    },
    "siglip": {
        "image": dict(pool="map", causal=False, pre_norm=False, patch_bias=True, project=False),
        "text": dict(pool="last", causal=False, pre_norm=False, project=True, project_bias=True),
    },
}

# What transformers takes for what a config.json leaves out.
_CLIP = dict(num_hidden_layers=12, hidden_act="quick_gelu", layer_norm_eps=1e-5, attention_dropout=0.0)
_SIGLIP = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, attention_dropout=0.0,
)  # fmt: skip
_CLIP_IMAGE = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=32)
_CLIP_TEXT = dict(hidden_size=512, intermediate_size=2048, num_attention_heads=8)
_PIXELS = dict(num_channels=3, image_size=224)
DEFAULTS = {
    "clip": {
        "image": _CLIP | _PIXELS | _CLIP_IMAGE,
        "text": _CLIP | _CLIP_TEXT | dict(vocab_size=49408, max_position_embeddings=77),
    },
    "siglip": {
        "image": _SIGLIP | _PIXELS | dict(patch_size=16, vision_use_head=True),
        "text": _SIGLIP | dict(vocab_size=32000, max_position_embeddings=64, pad_token_id=1, projection_size=None),
    },
}
NORMALISATION = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5,) * 3, (0.5,) * 3),
}


def describe(path) -> tuple[str, multimodal.Config, tuple[Modality, ...], list[str]]:
    """(kind, our model config, specs of `image` and `text`, report) of a folder."""
    path, report = Path(path), []
    config = read_json(path / "config.json")
    kind = config.get("model_type")
    if kind not in CLASSES:
        raise ValueError(
            f"{path}: model_type={kind!r}: only {' and '.join(CLASSES)} can be read, whole models with both towers "
            f"({', '.join(CLASSES.values())})"
        )
    sections = {side: _section(config, kind, side) for side in SECTIONS}
    vision, text = sections["image"], sections["text"]
    if kind == "clip":
        embed_dim = config.get("projection_dim", 512)
    else:
        embed_dim, projected = vision["hidden_size"], text["projection_size"] or text["hidden_size"]
        if not vision["vision_use_head"]:
            raise ValueError(
                f"{path}: vision_use_head=False: without its head the image tower gives no embedding; take a folder of "
                "a whole SiglipModel"
            )
        if projected != embed_dim:
            raise ValueError(
                f"{path}: text_config.projection_size={projected}: texts must come out at the image tower's "
                f"hidden_size={embed_dim} to be compared"
            )
    towers = []
    for side, c in sections.items():
        where = f"{path}: {SECTIONS[side]}"
        if c["hidden_act"] not in ACTIVATIONS:
            raise ValueError(f"{where}.hidden_act={c['hidden_act']!r}: our towers have {', '.join(ACTIVATIONS)}")
        if c["attention_dropout"]:
            report.append(f"ignored: {SECTIONS[side]}.attention_dropout={c['attention_dropout']}: we train without")
        fixed = dict(SETTINGS[kind][side])
        if kind == "siglip" and side == "text":
            fixed["pad_id"] = _pad_id(path, c["pad_token_id"], where, report)
        towers.append(tower.Config(
            name=side, modalities=(side,), dim=c["hidden_size"], heads=c["num_attention_heads"],
            depth=c["num_hidden_layers"], mlp_ratio=c["intermediate_size"] / c["hidden_size"],
            activation=ACTIVATIONS[c["hidden_act"]], eps=float(c["layer_norm_eps"]), **ALWAYS, **fixed,
        ))  # fmt: skip
    specs = _image(kind, path, vision, report), _text(kind, path, text, report)
    return kind, multimodal.Config(towers=tuple(towers), embed_dim=embed_dim), specs, report


def _pad_id(path, said, where: str, report) -> int:
    """What SigLIP's texts are padded with, which it reads: as the tokenizer pads, whatever config.json says."""
    found, side = tokenizer_json.padding(path)
    if side != "right":
        raise ValueError(
            f"{path / tokenizer_json.CONFIG}: padding_side={side!r}: here texts are padded at the right, and the model "
            "reads padding: its numbers would be others; set padding_side='right' if it was trained so"
        )
    if found is None and said is None:
        raise ValueError(f"{where}.pad_token_id=None: SigLIP reads its padding; say which id pads")
    if found is not None and found != said:
        report.append(f"re-interpreted: {SECTIONS['text']}.pad_token_id={said}: the tokenizer pads with {found}")
    return said if found is None else found


def classify(model: multimodal.Config) -> str:
    """`clip` or `siglip`, whose settings the towers of `model`, of image and text, have. ValueError if neither."""
    wrong = {}
    for kind, sides in SETTINGS.items():
        wrong[kind] = [
            f"{t.name}.{key}={getattr(t, key)!r} must be {value!r}"
            for t, settings in zip(model.towers, sides.values())
            for key, value in (ALWAYS | settings).items()
            if getattr(t, key) != value
        ]
        for t in model.towers:
            if t.activation not in ACTIVATIONS.values():
                wrong[kind].append(
                    f"{t.name}.activation={t.activation!r} must be one of {', '.join(ACTIVATIONS.values())}"
                )
        if kind == "siglip" and model.towers[1].pad_id < 0:
            wrong[kind].append(f"{model.towers[1].name}.pad_id={model.towers[1].pad_id} must be the id that pads")
        if not wrong[kind]:
            return kind
    raise ValueError(
        "model.towers: transformers has no such model; train with the settings of one of these (configs/clip_b16.py, "
        "configs/siglip_b16.py): " + "; ".join(f"{CLASSES[kind]}: {', '.join(lines)}" for kind, lines in wrong.items())
    )


def metadata(kind: str, model: multimodal.Config, pair, eos_id: int | None = None) -> dict:
    """The config.json of two towers; pair: the specs of image and text."""
    image, text = pair
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    vision, language = (
        dict(
            model_type=f"{kind}_{part}_model", hidden_size=t.dim, intermediate_size=round(t.mlp_ratio * t.dim),
            num_hidden_layers=t.depth, num_attention_heads=t.heads, hidden_act=names[t.activation],
            layer_norm_eps=t.eps, attention_dropout=0.0,
        )
        for part, t in zip(("vision", "text"), model.towers)
    )  # fmt: skip
    height, width, channels = image.shape
    if height != width:
        raise ValueError(f"modality {image.name!r}: shape={image.shape}: {CLASSES[kind]} reads square images only")
    vision |= dict(image_size=height, patch_size=image.patch, num_channels=channels)
    ids = tokenizer_json.special_ids(text)
    if eos_id is not None:
        ids["eos_token"] = eos_id
    if kind == "clip":
        eos = ids.get("eos_token")
        if eos is None:
            raise ValueError(
                f"modality {text.name!r}: tokenizer={text.tokenizer!r} does not say which id ends a text, where "
                "CLIPModel pools it: give eos_id"
            )
        if eos == 2:  # they keep an old reading of 2, the mistake of the first configs
            raise ValueError("eos_id=2: CLIPModel takes it for the greatest id of a text; give the tokenizer another")
        vision, language = (c | dict(projection_dim=model.embed_dim) for c in (vision, language))
    else:
        vision |= dict(vision_use_head=True)
        language |= dict(projection_size=model.embed_dim)
        ids["pad_token"] = model.towers[1].pad_id
    language |= dict(vocab_size=text.vocab_size, max_position_embeddings=text.length)
    language |= {f"{key}_id": ids.get(key) for key in ("bos_token", "eos_token", "pad_token")}
    config = dict(architectures=[CLASSES[kind]], model_type=kind, dtype="float32")
    config |= dict(projection_dim=model.embed_dim) if kind == "clip" else {}
    return config | dict(vision_config=vision, text_config=language)


def preprocessor(kind: str, image: Modality) -> dict:
    """The preprocessor_config.json that gives our pixels: x/255 normalised; whole for SigLIP, the centre for CLIP."""
    side = dict(height=image.shape[0], width=image.shape[1])
    config = dict(
        image_processor_type=f"{CLASSES[kind].removesuffix('Model')}ImageProcessor",
        processor_class=f"{CLASSES[kind].removesuffix('Model')}Processor",
        do_resize=True, size=side, resample={"nearest": 0, "bicubic": 3}[image.resample], do_rescale=True,
        rescale_factor=1 / 255, do_normalize=True, image_mean=list(image.mean), image_std=list(image.std),
        do_convert_rgb=image.shape[2] == 3,
    )  # fmt: skip
    if kind == "clip":
        config |= dict(size=dict(shortest_edge=image.shape[0]), do_center_crop=True, crop_size=side)
    return config


def read_json(file) -> dict:
    file = Path(file)
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; give a folder as save_pretrained writes it")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as e:
        raise ValueError(f"{file}: not valid JSON ({e}); copy or download it again") from e


def _section(config: dict, kind: str, side: str) -> dict:
    """One tower's config; older files have a `…_config_dict` beside it, which wins."""
    given = config.get(f"{SECTIONS[side]}_dict") or config.get(SECTIONS[side]) or {}
    return DEFAULTS[kind][side] | given


def _image(kind, path, c, report) -> Modality:
    size, patch = c["image_size"], c["patch_size"]
    if not (isinstance(size, int) and isinstance(patch, int)):
        raise ValueError(f"{path}: image_size={size!r}, patch_size={patch!r}: must be whole numbers, of squares")
    whole = size // patch * patch
    if whole != size:
        report.append(
            f"re-interpreted: image_size={size} becomes {whole}, whole patches of {patch}: they drop the rest"
        )
    mean, std = NORMALISATION[kind]
    file, key = path / "preprocessor_config.json", None
    if not file.exists() and (path / "processor_config.json").exists():
        file, key = path / "processor_config.json", "image_processor"
    if file.exists():
        p = read_json(file)
        p = p.get(key, {}) if key else p
        scale = p.get("rescale_factor", 1 / 255)
        if not p.get("do_rescale", True) or abs(scale * 255 - 1) > 1e-6:
            raise ValueError(f"{file}: rescale_factor={scale}: pixels must come as 0…1, by do_rescale with 1/255")
        mean, std = (tuple(p.get(k, d)) for k, d in (("image_mean", mean), ("image_std", std)))
        if not p.get("do_normalize", True):
            mean, std = (0.0,) * c["num_channels"], (1.0,) * c["num_channels"]
        if p.get("do_resize", True) and p.get("resample", 3) != 3:
            report.append(f"re-interpreted: resample={p['resample']} becomes bicubic (3)")
        given = p.get("crop_size" if p.get("do_center_crop", kind == "clip") else "size", size)
        sides = set(given.values()) if isinstance(given, dict) else {given}
        if sides != {size}:
            report.append(f"re-interpreted: {file.name} makes pictures of {given}, the model reads {size}")
    else:
        report.append(f"missing: preprocessor_config.json; normalisation is that of {CLASSES[kind]}")
    shape = (whole, whole, c["num_channels"])
    return Modality("image", "pixels", shape, "image", patch=patch, mean=mean, std=std, targets=False)


def _text(kind, path, c, report) -> Modality:
    file = path / tokenizer_json.FILE
    if not file.exists():
        report.append(
            f"missing: {tokenizer_json.FILE}: `text` needs ids made beforehand; AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(…) writes the file"
        )
    name = str(file.resolve()) if file.exists() else kind
    return Modality(
        "text", "sequence", (c["max_position_embeddings"],), "caption", kind, c["vocab_size"], tokenizer=name
    )


def select(model: multimodal.Config, modalities, image: str, text: str) -> tuple[multimodal.Config, tuple]:
    """(a config of the image's and the text's towers alone, their specs), by name or as the only ones."""
    owner = {name: t for t in model.towers for name in t.modalities}
    pair = []
    for key, kind, given in (("image", "pixels", image), ("text", "sequence", text)):
        found = {m.name: m for m in modalities if (m.pictures if key == "image" else m.text) and m.name in owner}
        if not given and len(found) == 1:
            (given,) = found
        if given not in found:
            raise ValueError(
                f"{key}={given!r}: name one of the {kind} modalities that a tower reads: {', '.join(found) or 'none'}"
            )
        pair.append(found[given])
    towers = tuple(dataclasses.replace(owner[m.name], modalities=(m.name,)) for m in pair)
    return dataclasses.replace(model, towers=towers, trunk=None), tuple(pair)
