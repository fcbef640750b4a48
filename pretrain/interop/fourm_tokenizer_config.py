"""The constructor's arguments of 4M's tokenizers (`VQVAE` and `DiVAE` of apple/ml-4m) as our configs, and back."""

import re

from data_pipeline.spec import Modality
from pretrain import build
from pretrain.interop.fourm_file import some
from pretrain.tokenizers.networks import mlp, unet, vit
from pretrain.tokenizers.quantizers import memcodes, vq

# {their name: ours}, of sizes that their code base fixes.
VIT = {
    "vit_s": dict(dim=512, depth=8, heads=8),
    "vit_b": dict(dim=768, depth=12, heads=12),
    "vit_l": dict(dim=1024, depth=24, heads=16),
}
UNET = {"unet_patched": dict(patch=4, channels=256, multipliers=[1, 2, 2, 2], blocks=3, attention=[4, 8])}
SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"sample": "x0", "epsilon": "epsilon", "v_prediction": "v"}

# What their constructors take, and what a key is if it is not given. First of both, then of either.
BOTH = dict(
    image_size=224, image_size_enc=None, n_channels=3, n_labels=None, enc_type="vit_b_enc", patch_proj=True,
    post_mlp=False, patch_size=16, quant_type="lucid", codebook_size=16384, num_codebooks=1, latent_dim=32,
    norm_codes=True, norm_latents=False, sync_codebook=True, ema_decay=0.99, threshold_ema_dead_code=0.25,
    code_replacement_policy="batch_random", commitment_weight=1.0, kmeans_init=False, ckpt_path=None, freeze_enc=False,
    undo_std=False,
)  # fmt: skip
VQVAE = dict(dec_type="vit_b_dec", out_conv=False, image_size_dec=None, patch_size_dec=None)
DIVAE = dict(
    dec_type="unet_patched", num_train_timesteps=1000, cls_free_guidance_dropout=0.0, masked_cfg=False,
    masked_cfg_low=0, masked_cfg_high=None, scheduler="ddpm", beta_schedule="squaredcos_cap_v2",
    prediction_type="v_prediction", clip_sample=False, thresholding=True, conditioning="concat",
    dec_transformer_dropout=0.2, zero_terminal_snr=True, image_size_dec=None,
)  # fmt: skip
PARTS = {
    "encoder": (vit.Config, mlp.Config),
    "quantizer": (vq.Config, memcodes.Config),
    "decoder": (vit.Config, mlp.Config, unet.Config),
}
ALSO = ("ignore_keys", "config")  # keys that say nothing of the network


def make_run(model: dict, modality: Modality) -> build.Run:
    """A run of this network."""
    return build.parse(run_config(model, modality))


def run_config(model: dict, modality: Modality) -> dict:
    """A run's config with it, which trains nothing."""
    objective, terms = "reconstruction", {"cross_entropy" if modality.vocab_size else "l2": 1.0}
    if model["model"] == "tokenizers.divae":
        objective, terms = "denoising", {"l2": 1.0}
    if model["quantizer"]["quantizer"] == "vq":
        terms["commitment"] = 1.0
    return dict(
        steps=1, batch_size=1, modalities=[build.plain(modality)], model=model,
        objectives={objective: dict(terms=terms)}, data=dict(source="tokens"),
    )  # fmt: skip


def describe(config: dict, path) -> tuple[dict, Modality, list[str]]:
    """(the `model` of a run's config, its modality, what is worth a line) of their constructor's arguments."""
    diffuses = str(config.get("dec_type", "")).startswith("u") or "beta_schedule" in config
    given = BOTH | (DIVAE if diffuses else VQVAE)
    unused = sorted(config.keys() - given.keys() - set(ALSO))
    report = [f"ignored, says nothing of the network: {some(unused)}"] if unused else []
    c = given | config

    def fail(key, remedy):
        raise ValueError(f"{path}: {key}={c[key]!r}: {remedy}")

    def network(key, suffix):
        if m := re.fullmatch(r"BottleneckMLP/B_(\d+)-Wi_(\d+)(?:-E_(\d+))?", c[key]):
            depth, dim, ratio = m.groups()
            return dict(network="mlp", dim=int(dim), depth=int(depth), mlp_ratio=float(ratio or 4))
        name = c[key].removesuffix(suffix)
        if name not in VIT or name == c[key]:
            fail(key, f"can be {', '.join(v + suffix for v in VIT)} or BottleneckMLP/B_…-Wi_…")
        patch = c["patch_size"] if c["patch_proj"] else 1
        size = c.get(f"image_size{suffix}") or c["image_size"]
        span = [size // c["patch_size"]] * 2 if size != c["image_size"] else []
        return dict(network="vit", patch=patch, **VIT[name], mlp_ratio=4.0, post_mlp=c["post_mlp"], span=span)

    encoder = network("enc_type", "_enc")
    if encoder["network"] == "mlp":
        shape = (1, c["n_channels"])
    elif c["patch_proj"]:
        shape = (c["image_size"], c["image_size"], 1 if c["n_labels"] else c["n_channels"])
    else:
        shape = ((c["image_size"] // c["patch_size"]) ** 2, c["n_channels"])
    if c.get("patch_size_dec") not in (None, c["patch_size"]):
        fail("patch_size_dec", f"both sides have patches of patch_size={c['patch_size']}")
    model = dict(encoder=encoder, quantizer=_quantizer(c, fail), dtype="float32")
    if diffuses:
        model |= dict(model="tokenizers.divae", decoder=_unet(c, fail), diffusion=_diffusion(c, fail))
    else:
        decoder = network("dec_type", "_dec")
        if decoder["network"] == "vit":
            decoder["convs"] = 2 * c["out_conv"]
        model |= dict(model="tokenizers.autoencoder", decoder=decoder)
    if c["n_labels"]:
        model["class_dim"] = c["n_channels"]
    return model, _modality(c, shape), report


def resized(config: dict, size: int, path) -> dict:
    """The config of the same tokenizer for images of another size: its position tables stay those of its own size."""
    c = BOTH | config
    if "MLP" in c["enc_type"]:
        raise ValueError(f"{path}: size={size}: enc_type={c['enc_type']!r} reads vectors, which have no size")
    if size % c["patch_size"]:
        raise ValueError(f"{path}: size={size}: must be divisible by patch_size={c['patch_size']}")
    sides = ("image_size_enc", "image_size_dec")
    return config | {"image_size": size} | {key: c.get(key) or c["image_size"] for key in sides}


def _modality(c: dict, shape) -> Modality:
    """Named by the domain that it was trained on, if the config still says so."""
    pixels = len(shape) == 3
    name = c.get("domain") or ("labels" if c["n_labels"] else "image" if pixels else "features")
    maps = dict(vocab_size=c["n_labels"], resample="nearest") if c["n_labels"] else {}
    return Modality(name, "pixels" if pixels else "vectors", shape, name, targets=pixels, **maps)


def _quantizer(c: dict, fail) -> dict:
    if c["quant_type"] == "memcodes":
        return dict(quantizer="memcodes", size=c["codebook_size"], width=c["latent_dim"], heads=c["num_codebooks"])
    if c["quant_type"] != "lucid":
        fail("quant_type", "must be lucid or memcodes")
    if c["num_codebooks"] != 1:
        fail("num_codebooks", "of vector quantization one codebook is read")
    renew = 1 / 32 if c["threshold_ema_dead_code"] else 0.0  # their recipes' share of a code's mean count
    return dict(
        quantizer="vq", size=c["codebook_size"], width=c["latent_dim"], cosine=c["norm_codes"], decay=c["ema_decay"],
        renew=renew,
    )  # fmt: skip


def _unet(c: dict, fail) -> dict:
    if c["dec_type"] not in UNET:
        fail("dec_type", f"of diffusion decoders {', '.join(UNET)} can be read")
    return dict(network="unet", dim=c["latent_dim"], **UNET[c["dec_type"]])


def _diffusion(c: dict, fail) -> dict:
    schedule, _, shift = str(c["beta_schedule"]).partition(":")
    shifted = schedule == "shifted_cosine"
    if not shifted and schedule not in SCHEDULES:
        fail("beta_schedule", f"must be {', '.join(SCHEDULES)} or shifted_cosine:SHIFT")
    if c["prediction_type"] not in PREDICTIONS:
        fail("prediction_type", f"must be one of {', '.join(PREDICTIONS)}")
    return dict(
        steps=c["num_train_timesteps"], schedule=schedule if shifted else SCHEDULES[schedule],
        shift=float(shift) if shifted else 1.0, zero_terminal_snr=c["zero_terminal_snr"],
        prediction=PREDICTIONS[c["prediction_type"]], clip=c["clip_sample"] or c["thresholding"],
    )  # fmt: skip


def metadata(run: build.Run) -> dict:
    """Their constructor's arguments for a tokenizer of ours. ValueError for what they cannot build."""
    out = _arguments(run)
    ours, theirs = (build.model_config(r) for r in (run, make_run(*describe(out, "4M's arguments")[:2])))
    if ours.code_scale != 1:
        raise ValueError(
            f"config.model.code_scale={ours.code_scale}: 4M's decoders read codes as they are: train with 1"
        )
    for part in ("encoder", "decoder"):
        a, b = (getattr(c, part).args[0] for c in (ours, theirs))
        if a != b:
            raise ValueError(f"config.model.{part}: 4M cannot build {a}, beside the other parts it is {b}")
    return out


def _arguments(run: build.Run) -> dict:
    c, m = build.model_config(run), run.modalities[0]
    encoder, decoder, quantizer = (p.args[0] for p in (c.encoder, c.decoder, c.quantizer))
    for key, part in (("encoder", encoder), ("decoder", decoder), ("quantizer", quantizer)):
        if not isinstance(part, PARTS[key]):
            raise ValueError(f"config.model.{key}: 4M has none like {part}")
    diffuses = isinstance(decoder, unet.Config)
    out = BOTH | (DIVAE if diffuses else VQVAE)
    out |= dict(n_channels=m.shape[-1], n_labels=m.vocab_size or None, enc_type=_type(encoder, "_enc"))
    if m.vocab_size:
        out["n_channels"] = c.class_dim
    if isinstance(encoder, vit.Config):
        plain = m.form == "vectors"
        side = vit.as_map(m.shape)[0]
        out |= dict(patch_proj=not plain, post_mlp=encoder.post_mlp, patch_size=16 if plain else encoder.patch)
        out["image_size"] = side * 16 if plain else side
        for key, part in (("image_size_enc", encoder), ("image_size_dec", decoder)):
            if span := getattr(part, "span", ()):
                out[key] = span[0] * out["patch_size"]
    memory = isinstance(quantizer, memcodes.Config)
    out |= dict(
        quant_type="memcodes" if memory else "lucid", codebook_size=quantizer.size, latent_dim=quantizer.width,
        num_codebooks=quantizer.heads if memory else 1,
    )  # fmt: skip
    if not memory:
        out |= dict(norm_codes=quantizer.cosine, ema_decay=quantizer.decay)
        out["threshold_ema_dead_code"] = BOTH["threshold_ema_dead_code"] if quantizer.renew else 0.0
    if not diffuses:
        return out | dict(dec_type=_type(decoder, "_dec"), out_conv=bool(getattr(decoder, "convs", 0)))
    d = c.diffusion
    there = {v: k for k, v in SCHEDULES.items()} | {"shifted_cosine": f"shifted_cosine:{d.shift}"}
    return out | dict(
        dec_type=_type(decoder, ""), num_train_timesteps=d.steps, beta_schedule=there[d.schedule],
        prediction_type={v: k for k, v in PREDICTIONS.items()}[d.prediction], clip_sample=d.clip, thresholding=False,
        zero_terminal_snr=d.zero_terminal_snr,
    )  # fmt: skip


def _type(config, suffix: str) -> str:
    """Their name of a network of these sizes."""
    if isinstance(config, mlp.Config):
        ratio = "" if config.mlp_ratio == 4 else f"-E_{config.mlp_ratio:g}"
        return f"BottleneckMLP/B_{config.depth}-Wi_{config.dim}{ratio}"
    for name, sizes in (UNET if isinstance(config, unet.Config) else VIT).items():
        if all(build.plain(getattr(config, k)) == v for k, v in sizes.items()):
            return name + suffix
    raise ValueError(f"4M builds no network of the sizes of {config}; there are {', '.join((*VIT, *UNET))}")
