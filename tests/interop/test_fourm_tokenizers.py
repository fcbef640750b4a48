"""4M's tokenizers: the tensors of the published sizes, files there and back bit for bit, and what is no such file."""

import ast
import functools
import json
import re
from pathlib import Path

import fourm_tokenizers as cases
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from pretrain import build
from pretrain.interop import fourm_file, fourm_tokenizer_config, fourm_tokenizers
from pretrain.interop.fourm_tokenizer_config import describe, make_run, metadata

GOLDEN = Path(__file__).parents[1] / "golden" / "fourm"
PUBLISHED = {
    "vqvae_semseg": dict(n_channels=64, n_labels=134, post_mlp=True, codebook_size=4096),
    "vqvae_memcodes": dict(
        enc_type="BottleneckMLP/B_6-Wi_1024", dec_type="BottleneckMLP/B_6-Wi_1024", n_channels=768,
        quant_type="memcodes", codebook_size=8192, num_codebooks=8, latent_dim=1024,
    ),
    "divae_rgb": dict(
        dec_type="unet_patched", post_mlp=True, beta_schedule="linear", prediction_type="sample", clip_sample=True
    ),
}  # fmt: skip


def listing(name) -> dict:
    """{name: shape} of a golden listing."""
    out = {}
    for line in (GOLDEN / f"{name}_state_dict.txt").read_text().splitlines()[1:]:
        key, shape = line.split("\t")
        first, last = (int(n) for n in m.groups()) if (m := re.search(r"(\d+)\.\.(\d+)", key)) else (0, 0)
        for i in range(first, last + 1):
            out[re.sub(r"\d+\.\.\d+", str(i), key)] = ast.literal_eval(shape)
    return out


@pytest.mark.parametrize("name, count", [("vqvae_semseg", 314), ("vqvae_memcodes", 87), ("divae_rgb", 604)])
def test_the_tensors_of_published_sizes(name, count):
    run = make_run(*describe(PUBLISHED[name], name)[:2])
    shapes = listing(name)
    assert len(shapes) == count
    names = fourm_tokenizers.Names(run)
    assert names.shapes() == shapes
    again = metadata(run)
    assert {k: again[k] for k in PUBLISHED[name]} == PUBLISHED[name]
    assert {str(s.dtype) for s in names.ours.values()} == {"float32"}
    assert {t.path for t in names.tensors.values()} == names.ours.keys()


@pytest.fixture(params=cases.CONFIGS)
def file(request, tmp_path, monkeypatch):
    cases.add_presets(monkeypatch)
    return reference_file(request.param, tmp_path)


@functools.cache
def random_state(name):
    names, rng = fourm_tokenizers.Names(cases.make_run(name)), np.random.default_rng(0)
    return {k: rng.normal(size=s).astype(np.float32) for k, s in names.shapes().items()} | names.fixed


def reference_file(name, tmp_path, config=lambda c: None, state=lambda s: None):
    """Random numbers with the names and shapes of one case; config, state: what to do to it first."""
    c, arrays = dict(cases.CONFIGS[name]), {k: v.copy() for k, v in random_state(name).items()}
    config(c), state(arrays)
    return cases.write_reference(tmp_path / "there.safetensors", c, arrays)


def test_there_and_back(file, tmp_path):
    held = fourm_tokenizers.read(file)
    run = make_run(held.model, held.modality)
    assert not [line for line in held.report if not line.startswith("ignored")]
    out = fourm_tokenizers.write(tmp_path / "out", run, held.params, held.config, held.fixed)
    before, after = load_file(file), load_file(out / fourm_file.FILE)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype
        np.testing.assert_array_equal(array, after[name], err_msg=name)
    # Both forms hold the config that came, and what is read of either is the same.
    assert fourm_file.read_file(out)[0] == fourm_file.read_file(out / fourm_file.FILE)[0] == held.config
    for form in (out, out / fourm_file.FILE):
        again = fourm_tokenizers.read(form)
        jax.tree.map(np.testing.assert_array_equal, again.params, held.params)
        assert (again.model, again.modality) == (held.model, held.modality)


def test_a_config_of_ours_becomes_theirs(file, tmp_path):
    """Without the one that came, the config has every argument, and means the same network."""
    held = fourm_tokenizers.read(file)
    run = make_run(held.model, held.modality)
    out = fourm_tokenizers.write(tmp_path / "out", run, held.params)
    config = json.loads((out / "config.json").read_text())
    assert config.keys() >= fourm_tokenizer_config.BOTH.keys()
    theirs, ours = (build.model_config(make_run(*describe(c, "")[:2])) for c in (config, held.config))
    for part in ("encoder", "quantizer", "decoder"):
        assert getattr(theirs, part).args == getattr(ours, part).args
    jax.tree.map(np.testing.assert_array_equal, fourm_tokenizers.read(out).params, held.params)


def test_fixed_arrays_come_back_as_they_came(tmp_path, monkeypatch):
    """Their sine tables may differ from ours in the last bit."""
    cases.add_presets(monkeypatch)
    file = reference_file("masks", tmp_path, state=lambda s: s["encoder.pos_emb"].__iadd__(1e-7))
    held = fourm_tokenizers.read(file)
    assert list(held.fixed) == ["encoder.pos_emb"]
    run = make_run(held.model, held.modality)
    out = fourm_tokenizers.write(tmp_path / "out", run, held.params, held.config, held.fixed)
    np.testing.assert_array_equal(load_file(out / fourm_file.FILE)["encoder.pos_emb"], held.fixed["encoder.pos_emb"])
    file = reference_file("masks", tmp_path, state=lambda s: s.pop("encoder.pos_emb"))
    assert "missing, computed from the config: encoder.pos_emb" in fourm_tokenizers.read(file).report


def test_positions_are_theirs_on_a_square():
    """They count columns where we count rows, but flatten by columns: on a square both are the same table."""
    table = fourm_tokenizers.Names(make_run(*describe(PUBLISHED["vqvae_semseg"], "")[:2])).fixed["encoder.pos_emb"]
    w, h = np.meshgrid(np.arange(14.0), np.arange(14.0), indexing="ij")
    omega = 10000.0 ** -(np.arange(192) / 192)
    angles = [a.ravel()[:, None] * omega for a in (w, h)]
    theirs = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], 1)
    np.testing.assert_allclose(table, theirs.T.reshape(1, 768, 14, 14), atol=1e-6)


def test_another_size_of_images_keeps_the_position_tables(tmp_path, monkeypatch):
    cases.add_presets(monkeypatch)
    file = reference_file("masks", tmp_path)
    held = fourm_tokenizers.read(file, size=32)
    run = make_run(held.model, held.modality)
    assert held.modality.shape == (32, 32, 3) and build.model_config(run).decoder.args[0].span == (4, 4)
    out = fourm_tokenizers.write(tmp_path / "out", run, held.params, held.config, held.fixed)
    before, after = load_file(file), load_file(out / fourm_file.FILE)
    assert all(np.array_equal(before[k], after[k]) for k in before.keys() | after.keys())
    assert (held.config["image_size"], held.config["image_size_enc"]) == (32, 16)
    theirs = fourm_tokenizers.write(tmp_path / "new", run, held.params) / "config.json"
    assert describe(json.loads(theirs.read_text()), "")[0] == held.model
    with pytest.raises(ValueError, match="size=30: must be divisible by patch_size=4"):
        fourm_tokenizers.read(file, size=30)
    with pytest.raises(ValueError, match="reads vectors, which have no size"):
        fourm_tokenizers.read(reference_file("vector", tmp_path), size=32)


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(enc_type="vit_h_enc"), "enc_type='vit_h_enc': can be vit_s_enc, vit_b_enc"),
        (dict(dec_type="BottleneckMLP/B_6"), "dec_type='BottleneckMLP/B_6': can be"),
        (dict(dec_type="uvit_b_p4_f16"), "dec_type='uvit_b_p4_f16': of diffusion decoders unet_patched"),
        (dict(quant_type="fsq"), "quant_type='fsq': must be lucid or memcodes"),
        (dict(num_codebooks=2), "num_codebooks=2: of vector quantization one"),
        (dict(dec_type="unet_patched", beta_schedule="sqrt"), "beta_schedule='sqrt': must be linear"),
        (dict(dec_type="unet_patched", prediction_type="noise"), "prediction_type='noise': must be one of sample"),
    ],
    ids=str,
)
def test_a_config_that_is_not_read(config, message):
    with pytest.raises(ValueError, match=f"there: {re.escape(message)}"):
        describe(config, "there")


@pytest.mark.parametrize(
    "state, message",
    [
        (lambda s: s.pop("decoder.out_proj.bias"), "missing: decoder.out_proj.bias: these are not the tensors"),
        (lambda s: s.update(extra=np.zeros(2, np.float32)), "unexpected: extra"),
        (lambda s: (s.pop("quant_proj.bias"), s.update(x=np.zeros(2))), "missing: quant_proj.bias; unexpected: x"),
        (lambda s: s.update({"encoder.proj.weight": np.zeros((16, 3, 2, 8), np.float32)}), r"shape \(16, 3, 2, 8\)"),
        (
            lambda s: s["quantize._codebook.initted"].fill(0),
            "quantize._codebook.initted is not what its config",
        ),
        (lambda s: s["encoder.pos_emb"].fill(0), "encoder.pos_emb is not what its config"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, monkeypatch, state, message):
    cases.add_presets(monkeypatch)
    with pytest.raises(ValueError, match=message):
        fourm_tokenizers.read(reference_file("masks", tmp_path, state=state))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m["encoder"].update(depth=3), "4M builds no network of the sizes of"),
        (lambda m: m["encoder"].update(mlp_ratio=2.0), "config.model.encoder: 4M cannot build"),
        (lambda m: m["decoder"].update(post_mlp=False), "config.model.decoder: 4M cannot build"),
        (lambda m: m.update(code_scale=3.0), "code_scale=3.0: 4M's decoders read codes as they are"),
        (
            lambda m: m.update(quantizer=dict(quantizer="fsq", levels=[5] * 6)),
            "config.model.quantizer: 4M has none like",
        ),
        (lambda m: m.update(encoder=dict(network="patches", patch=4)), "config.model.encoder: 4M has none like"),
    ],
)
def test_a_tokenizer_that_4m_cannot_build(tmp_path, monkeypatch, change, message):
    cases.add_presets(monkeypatch)
    model, modality, _ = describe(cases.CONFIGS["labels"], "")
    change(model)
    with pytest.raises(ValueError, match=message):
        fourm_tokenizers.write(tmp_path / "out", make_run(model, modality), {})
    assert not (tmp_path / "out").exists()


def test_what_says_nothing_of_the_network_is_reported():
    config = cases.CONFIGS["labels"] | dict(epochs=20, blr=1e-4, enc_type="vit_b_enc", dec_type="vit_b_dec")
    assert describe(config, "")[2] == ["ignored, says nothing of the network: blr, epochs"]
