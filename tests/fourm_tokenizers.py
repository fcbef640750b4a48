"""Small tokenizers of 4M by their constructor's arguments, of sizes that its code base does not have."""

from safetensors.numpy import save_file

from pretrain.interop import fourm_tokenizer_config

SMALL = dict(dim=16, depth=2, heads=2)
CODES = dict(codebook_size=11, latent_dim=6)
UNET = dict(patch=2, channels=8, multipliers=[1, 2, 2], blocks=1, attention=[2, 4], groups=4)
CONFIGS = {
    "labels": dict(
        image_size=16, patch_size=4, n_channels=5, n_labels=7, enc_type="vit_small_enc", dec_type="vit_small_dec",
        post_mlp=True, **CODES,
    ),
    "masks": dict(
        image_size=16, patch_size=4, n_channels=3, enc_type="vit_small_enc", dec_type="vit_small_dec", out_conv=True,
        norm_codes=True, **CODES,
    ),
    "features": dict(
        image_size=56, patch_size=14, n_channels=5, enc_type="vit_small_enc", dec_type="vit_small_dec",
        patch_proj=False, post_mlp=True, domain="DINOv2-B14", **CODES,
    ),
    "vector": dict(
        n_channels=10, enc_type="BottleneckMLP/B_2-Wi_8", dec_type="BottleneckMLP/B_2-Wi_8", quant_type="memcodes",
        codebook_size=9, num_codebooks=4, latent_dim=8,
    ),
    "divae": dict(
        image_size=16, patch_size=4, n_channels=3, enc_type="vit_small_enc", dec_type="unet_small", post_mlp=True,
        beta_schedule="linear", prediction_type="sample", num_train_timesteps=100, ignore_keys=["decoder", "loss"],
        **CODES,
    ),
}  # fmt: skip


def add_presets(monkeypatch):
    monkeypatch.setitem(fourm_tokenizer_config.VIT, "vit_small", SMALL)
    monkeypatch.setitem(fourm_tokenizer_config.UNET, "unet_small", UNET)


def write_reference(path, config: dict, state: dict):
    """A file as the reference's training writes it."""
    save_file(state, path, metadata={k: str(v) for k, v in config.items()})
    return path


def make_run(name: str):
    """A run of ours with the network that a config describes."""
    return fourm_tokenizer_config.make_run(*fourm_tokenizer_config.describe(CONFIGS[name], name)[:2])
