"""CLIP and SigLIP folders without transformers: the same bits there and back, errors that say what to do."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_towers import CONFIGS, make_runs

from pretrain.interop import transformers


@pytest.fixture(scope="module")
def runs():
    return make_runs()


@pytest.fixture(params=CONFIGS)
def folder(request, runs, tmp_path):
    return transformers.write(tmp_path / request.param, *runs[request.param])


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
        (folder / "tokenizer.json").unlink()  # it would say what pads
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
