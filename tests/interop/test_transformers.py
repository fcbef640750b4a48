"""CLIP and SigLIP folders: the numbers of transformers, the same bits there and back, errors that say what to do."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import clip_b16, siglip_b16
from data_pipeline.sources.emoji import Source
from data_pipeline.text import TextTokenizer
from pretrain import build
from pretrain.evals.base import Context
from pretrain.interop import transformers
from pretrain.models.multimodal import Model
from pretrain.restore import init_function, restore
from pretrain.step import example_keys
from pretrain.train import train
from tools import convert

CONFIGS = {"clip": clip_b16, "siglip": siglip_b16}
EOS = 98


@pytest.fixture(scope="module")
def runs():
    """{kind: (model config, modalities, objectives, params)} of our small configs, with random parameters."""
    out = {}
    for kind, config in CONFIGS.items():
        run = build.parse(config.get_config("tiny"))
        objectives = build.objectives(run)
        graph, init = init_function(build.model(run, objectives), objectives, 0)
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda s, r=rng: r.normal(size=s.shape).astype(s.dtype), jax.eval_shape(init))
        params["objective"] = jax.tree.map(np.asarray, params["objective"])  # a scalar is no array of NumPy
        out[kind] = nnx.merge(graph, params["model"]).config, run.modalities, objectives, params
    return out


@pytest.fixture(params=CONFIGS)
def folder(request, runs, tmp_path):
    return transformers.write(tmp_path / request.param, *runs[request.param])


def same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        assert a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and np.array_equal(a[k], b[k]), k


def test_what_is_written_is_read_the_same(folder, runs, tmp_path):
    model, modalities, _, params = runs[folder.name]
    held = transformers.read(folder)
    assert held.kind == folder.name and not held.report
    assert held.model == dataclasses.replace(model, dtype="bfloat16")
    jax.tree.map(np.testing.assert_array_equal, held.params, params)
    text, names = held.modalities[1], ("shape", "patch", "mean", "std", "vocab_size")
    assert all(getattr(a, n) == getattr(b, n) for a, b in zip(held.modalities, modalities) for n in names)
    assert text.tokenizer == str((folder / "tokenizer.json").resolve())
    again = transformers.write(
        tmp_path / "again", held.model, held.modalities, held.objectives, held.params
    )  # fmt: skip
    files = sorted(p.name for p in folder.iterdir())
    assert files == sorted(p.name for p in again.iterdir())
    for name in set(files) - {"README.md"}:
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_shards_and_half_precision_are_read(folder):
    from safetensors.numpy import save_file

    whole, state = transformers.read(folder), transformers.read_state(folder)
    (folder / transformers.FILE).unlink()
    where = {}
    for i, names in enumerate((list(state)[::2], list(state)[1::2])):
        save_file({k: state[k].astype(np.float16 if i else np.float32) for k in names}, folder / f"{i}.safetensors")
        where |= dict.fromkeys(names, f"{i}.safetensors")
    (folder / transformers.INDEX).write_text(json.dumps({"weight_map": where}))
    held = transformers.read(folder)
    assert "become float32, from float16" in held.report[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-7), held.params, whole.params)
    (folder / "1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="copy all shards"):
        transformers.read(folder)


def change(folder, config=lambda c: None, state=lambda s: None, pre=None):
    from safetensors.numpy import save_file

    held, tensors = json.loads((folder / "config.json").read_text()), transformers.read_state(folder)
    config(held)
    state(tensors)
    (folder / "config.json").write_text(json.dumps(held))
    save_file(tensors, folder / transformers.FILE)
    if pre is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(pre))


@pytest.mark.parametrize(
    "config, state, pre, error",
    [
        (lambda c: c.update(model_type="bert"), None, None, "model_type='bert': only clip and siglip"),
        (lambda c: c["text_config"].update(hidden_act="relu"), None, None, r"text_config.hidden_act='relu'"),
        (lambda c: c["vision_config"].update(num_hidden_layers=3), None, None, r"layers\.2\..*missing"),
        (lambda c: c["vision_config"].update(patch_size=[8, 8]), None, None, "must be whole numbers"),
        (lambda c: c["text_config"].update(vocab_size=9), None, None, r"the config|its config.json means \(9, 64\)"),
        (None, lambda s: s.pop("logit_scale"), None, "logit_scale missing: not the"),
        (None, lambda s: s.update(extra=np.zeros(2, np.float32)), None, "extra unexpected"),
        (None, None, dict(do_rescale=False), "pixels must come as 0…1"),
    ],
)
def test_a_wrong_folder_is_named(folder, config, state, pre, error):
    change(folder, config or (lambda c: None), state or (lambda s: None), pre)
    with pytest.raises(ValueError, match=error):
        transformers.read(folder)


def test_what_siglip_needs_is_named(runs, tmp_path):
    for i, (key, values, error) in enumerate(
        [
            ("vision_config", dict(vision_use_head=False), "without its head"),
            ("text_config", dict(projection_size=32), "projection_size=32: texts must come out"),
            ("text_config", dict(pad_token_id=None), "SigLIP reads its padding"),
        ]
    ):
        folder = transformers.write(tmp_path / str(i), *runs["siglip"])
        change(folder, lambda c, key=key, values=values: c[key].update(values))
        with pytest.raises(ValueError, match=error):
            transformers.read(folder)


def test_what_is_missing_or_read_in_another_way_is_reported(runs, tmp_path):
    folder = transformers.write(tmp_path / "x", *runs["clip"])
    for name in ("preprocessor_config.json", "tokenizer.json"):
        (folder / name).unlink()
    positions = {f"{s}_model.embeddings.position_ids": np.arange(3) for s in ("text", "vision")}
    change(folder, state=lambda s: s.update(positions, logit_scale=np.array(5.0, np.float32)))
    held = transformers.read(folder)
    for line, start in zip(
        held.report, ("missing: preproc", "missing: tokenizer.json", "ignored: text_model", "re-interpreted: logit")
    ):
        assert line.startswith(start)
    assert held.objectives["contrastive"].max_scale == 0 and held.modalities[1].tokenizer == "clip"
    with pytest.raises(ValueError, match=r"does not say which id ends a text.*give eos_id"):
        transformers.write(tmp_path / "y", held.model, held.modalities, held.objectives, held.params)
    out = transformers.write(tmp_path / "y", held.model, held.modalities, held.objectives, held.params, eos_id=3)
    assert transformers.read_state(out)["logit_scale"] == 5.0 and not (out / "tokenizer.json").exists()
    (folder / transformers.FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin becomes one"):
        transformers.read(folder)


def with_towers(model, **changes):
    """model with {tower: settings} changed."""
    return dataclasses.replace(
        model, towers=tuple(dataclasses.replace(t, **changes.get(t.name, {})) for t in model.towers)
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(image=dict(pool="ggem")), "CLIPModel: image.pool='ggem' must be 'cls'"),
        (dict(text=dict(positions="sincos")), "SiglipModel: .*text.positions='sincos' must be 'learned'"),
        (dict(image=dict(activation="swiglu")), "activation='swiglu' must be one of gelu, quick_gelu, gelu_tanh"),
        (dict(text=dict(bias=False)), "text.bias=False must be True"),
    ],
)
def test_what_transformers_cannot_express_is_refused(runs, tmp_path, changes, error):
    model, *rest = runs["clip"]
    with pytest.raises(ValueError, match=error):
        transformers.write(tmp_path / "x", with_towers(model, **changes), *rest)
    assert not (tmp_path / "x").exists()


def test_the_scale_must_be_theirs(runs, tmp_path):
    model, modalities, objectives, params = runs["clip"]
    with pytest.raises(ValueError, match="has no bias for a sigmoid"):
        transformers.write(tmp_path / "x", model, modalities, runs["siglip"][2], runs["siglip"][3])
    with pytest.raises(ValueError, match="needs its scale"):
        transformers.write(tmp_path / "x", model, modalities, {}, params)
    # A learned temperature, and a scale at its bound, as transformers takes them.
    for learn, own, expected in (("linear", {"temperature": 0.02}, 50.0), ("log", {"log_scale": 9.0}, 100.0)):
        made = {"a": dataclasses.replace(objectives["contrastive"], learn=learn)}
        held = params | {"objective": {"a": {k: jnp.float32(v) for k, v in own.items()}}}
        state = transformers.read_state(transformers.write(tmp_path / learn, model, modalities, made, held))
        np.testing.assert_allclose(np.exp(state["logit_scale"]), expected, rtol=1e-5)
    # SigLIP's towers under a softmax loss: a bias of zero.
    model, modalities, _, params = runs["siglip"]
    held = {"model": params["model"], "objective": runs["clip"][3]["objective"]}
    state = transformers.read_state(transformers.write(tmp_path / "s", model, modalities, runs["clip"][2], held))
    assert state["logit_bias"] == [0.0]


def test_one_of_several_image_modalities(runs, tmp_path):
    model, (image, text), objectives, params = runs["clip"]
    modalities = (image, dataclasses.replace(image, name="flat", field="flat"), text)
    model = with_towers(model, image=dict(modalities=("image", "flat")))
    with pytest.raises(ValueError, match="image='': name one of the pixels modalities that a tower reads: image, flat"):
        transformers.write(tmp_path / "x", model, modalities, objectives, params)
    transformers.write(tmp_path / "x", model, modalities, objectives, params, image="image", text="text")
    with pytest.raises(FileExistsError, match="not empty"):
        transformers.write(tmp_path / "x", model, modalities, objectives, params, image="image")
    wide = dataclasses.replace(image, shape=(64, 32, 3))
    with pytest.raises(ValueError, match="square images only"):
        transformers.write(tmp_path / "y", model, (wide, text), objectives, params, image="image")


# With transformers itself.


@pytest.fixture(scope="module", params=CONFIGS)
def theirs(request, tmp_path_factory):
    """(their model of random weights, its folder)."""
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    text = dict(
        vocab_size=99, hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=12, bos_token_id=97, eos_token_id=EOS, pad_token_id=1,
    )  # fmt: skip
    vision = dict(
        hidden_size=48, intermediate_size=100, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    if request.param == "clip":
        config = hf.CLIPConfig(text_config=text, vision_config=vision | dict(hidden_act="gelu"), projection_dim=20)
        model = hf.CLIPModel(config)
    else:
        config = hf.SiglipConfig(text_config=text | dict(projection_size=48), vision_config=vision)
        model = hf.SiglipModel(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(1.3 if name.startswith("logit_scale") else 0.1 * torch.randn_like(p))
    path = tmp_path_factory.mktemp("hf") / request.param
    model.eval().save_pretrained(path, max_shard_size="60KB")
    return model, path


def batch():
    """Three pictures and texts of 4, 12 and 7 tokens: (our batch, their ids)."""
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(3, 97, (3, 12)), np.array([4, 12, 7])
    ids[range(3), lengths - 1] = EOS
    valid = np.arange(12) < lengths[:, None]
    pixels = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    ours = {"image": {"pixels": pixels, "valid": np.ones(3, bool)}, "text": {"ids": ids * valid, "valid": valid}}
    return ours, np.where(valid, ids, 1)


def embeddings(held):
    """Of `batch`: {modality: (pooled, embedding)} by our network in fp32."""
    config = dataclasses.replace(held.model, dtype="float32")
    names = tuple(m.name for m in held.modalities)
    graph = nnx.split(nnx.eval_shape(lambda: Model(config, held.modalities, names, nnx.Rngs(0))))[0]
    (objective,) = held.objectives.values()

    @jax.jit
    def run(params, batch):
        model = nnx.merge(graph, params)
        view = objective.view(batch, jax.random.split(jax.random.key(0), 3))
        z = model.embed(view["tokens"], view["dense"])
        pooled = {n: model.pooled(view["tokens"][n], view["dense"], n) for n in names}
        return {n: (pooled[n][0], z[n]) for n in names}

    return run(held.params["model"], batch()[0])


def test_embeddings_and_logits_are_theirs(theirs):
    import torch

    model, path = theirs
    held, (ours, ids) = transformers.read(path), batch()
    image = held.modalities[0]
    pixels = (ours["image"]["pixels"] / 255.0 - np.array(image.mean)) / np.array(image.std)
    ids, pixels = torch.tensor(ids), torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels)
        image, text = model.vision_model(pixels).pooler_output, model.text_model(ids)
    text = text.last_hidden_state[:, -1] if held.kind == "siglip" else text.pooler_output  # SigLIP's is projected
    z = embeddings(held)
    own = held.params["objective"]["contrastive" if held.kind == "clip" else "sigmoid"]
    logits = np.exp(own["log_scale"]) * (z["image"][1] @ z["text"][1].T) + own.get("bias", 0.0)
    for a, b in (
        (z["image"][0], image),
        (z["text"][0], text),
        (z["image"][1], out.image_embeds),
        (z["text"][1], out.text_embeds),
        (logits, out.logits_per_image),
    ):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-5, rtol=1e-5)


def test_their_folder_comes_back_the_same(theirs, tmp_path):
    import torch
    import transformers as hf

    model, path = theirs
    held = transformers.read(path)
    out = transformers.write(
        tmp_path / "out", held.model, held.modalities, held.objectives, held.params, eos_id=EOS
    )  # fmt: skip
    again, info = hf.AutoModel.from_pretrained(out, output_loading_info=True)
    assert type(again) is type(model) and not any(info.values())
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    ids, pixels = torch.tensor(batch()[1]), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        a, b = (m.eval()(input_ids=ids, pixel_values=pixels).logits_per_text for m in (model, again))
    assert torch.equal(a, b)


@pytest.mark.parametrize("kind", CONFIGS)
def test_our_own_model_opens_in_transformers(runs, tmp_path, kind):
    pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")
    out = transformers.write(tmp_path / "x", *runs[kind])
    model, info = hf.AutoModel.from_pretrained(out, output_loading_info=True)
    assert type(model).__name__ == transformers.CLASSES[kind] and not any(info.values())
    processor = hf.AutoProcessor.from_pretrained(out)
    texts, image = ["grinning face", "a [S_1] red v0=3 cat"], np.full((64, 64, 3), 255, np.uint8)
    given = processor(text=texts, images=image, padding="max_length", return_tensors="pt")
    ids, pad = [TextTokenizer().encode(t, 16) for t in texts], 0
    assert given["input_ids"].tolist() == [i + [pad] * (16 - len(i)) for i in ids]
    assert given["pixel_values"].shape == (1, 3, 64, 64) and ("attention_mask" in given) == (kind == "clip")
    mean, std = runs[kind][1][0].mean, runs[kind][1][0].std
    np.testing.assert_allclose(given["pixel_values"][0, :, 0, 0], [(1 - m) / s for m, s in zip(mean, std)], rtol=1e-5)
    assert model(**given).logits_per_image.shape == (1, 2)


@pytest.mark.parametrize("kind", CONFIGS)
def test_published_base_models_have_our_names_and_shapes(tmp_path, kind):
    """openai/clip-vit-base-patch16 and google/siglip-base-patch16-224, whose config.json says little more than this."""
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = dict(model_type=kind, vision_config=dict(patch_size=16), text_config={})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = hf.AutoModel.from_config(hf.AutoConfig.from_pretrained(tmp_path))
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    kind, ours, modalities, _ = transformers.describe(tmp_path)
    assert transformers.shapes(kind, ours, modalities) == expected
    assert len(expected) == {"clip": 398, "siglip": 408}[kind]
    # The config files of the papers describe the same models.
    run = build.parse(CONFIGS[kind].get_config())
    made = nnx.eval_shape(lambda: build.model(run, build.objectives(run))(nnx.Rngs(0))).config
    assert made == ours and transformers.shapes(kind, made, run.modalities) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_trained_on_emoji_gives_its_numbers_in_transformers(tmp_path, kind):
    """From raw pictures and texts: their processor, tokenizer and model against our pipeline and model."""
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = CONFIGS[kind].get_config("tiny")
    config.steps, config.batch_size, config.optim.warmup, config.log.tensorboard = 3, 8, 1, False
    config.evals = {}
    if kind == "siglip":
        config.objectives.sigmoid.chunk = 1
    train(config, tmp_path / "run")
    convert.write(tmp_path / "run", tmp_path / kind, None, image="", text="", eos_id=None)
    held = restore(tmp_path / "run")
    (objective,) = held.objectives.values()
    given = next(Context(held.run, held.graph, held.objectives).batches("test", 16))
    view = objective.view(given, example_keys(0, 0, 16))
    ours = jax.jit(lambda p: nnx.merge(held.graph, p).embed(view["tokens"], view["dense"]))(held.params["model"])
    model, info = hf.AutoModel.from_pretrained(tmp_path / kind, output_loading_info=True)
    assert not any(info.values())
    emoji = [Source("test")[i] for i in range(16)]
    texts, images = [e["name"]["en"] for e in emoji], [e["render3d"] for e in emoji]
    processor = hf.AutoProcessor.from_pretrained(tmp_path / kind)
    inputs = processor(
        text=texts, images=images, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = model(**inputs)
    np.testing.assert_allclose(theirs.image_embeds, ours["image"], atol=1e-5)
    np.testing.assert_allclose(theirs.text_embeds, ours["text"], atol=1e-5)
    own = held.params["objective"][next(iter(held.objectives))]
    logits = np.exp(own["log_scale"]) * ours["image"] @ ours["text"].T + own.get("bias", 0.0)
    np.testing.assert_allclose(theirs.logits_per_image, logits, atol=1e-4)
