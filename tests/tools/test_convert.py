"""A 4M file, or a CLIP or SigLIP folder → workdir → folder: the same bits; and the workdir opens as any other."""

import sys
from pathlib import Path

import fourm_tokenizers as cases
import jax
import numpy as np
import pytest

from configs import clip_b16, siglip_b16
from pretrain import build
from pretrain.initialize import Load, Source, start
from pretrain.interop import fourm, fourm_file, fourm_tokenizers, transformers
from pretrain.restore import init_function, load_tokenizer, restore
from tools import convert

GOLDEN = Path(__file__).parents[1] / "golden" / "fourm"


@pytest.mark.parametrize("name", ["swiglu_nobias", "gelu_bias"])
def test_there_and_back(tmp_path, name, capsys):
    convert.read(GOLDEN / f"{name}.safetensors", tmp_path / "run")
    assert "output heads: tables of their own" in capsys.readouterr().out
    convert.write(tmp_path / "run", tmp_path / "out")
    before, after = (fourm.read_file(p) for p in (GOLDEN / f"{name}.safetensors", tmp_path / "out"))
    assert before[0] == after[0] and before[1].keys() == after[1].keys()
    assert all(np.array_equal(before[1][k], after[1][k]) for k in before[1])
    assert build.model_config(restore(tmp_path / "run").run).gated == (name == "swiglu_nobias")
    with pytest.raises(FileExistsError, match="not empty"):
        convert.read(GOLDEN / f"{name}.safetensors", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labels", "vector", "divae"])
def test_tokenizers_there_and_back(tmp_path, name, monkeypatch, capsys):
    cases.add_presets(monkeypatch)
    names, rng = fourm_tokenizers.Names(cases.make_run(name)), np.random.default_rng(0)
    state = {k: rng.normal(size=s).astype(np.float32) for k, s in names.shapes().items()} | names.fixed
    if name == "divae":
        state["encoder.pos_emb"] += 1e-7
    source = cases.write_reference(tmp_path / "there.safetensors", cases.CONFIGS[name], state)
    convert.read(source, tmp_path / "run")
    convert.write(tmp_path / "run", tmp_path / "out")
    assert "wrote" in capsys.readouterr().out
    before, after = (fourm_file.read_file(p) for p in (source, tmp_path / "out"))
    assert before[0] == after[0] and before[1].keys() == after[1].keys()
    assert all(np.array_equal(before[1][k], after[1][k]) for k in before[1])

    tokenizer = load_tokenizer(tmp_path / "run")
    held = restore(tmp_path / "run")
    (modality,), model = held.run.modalities, held.model.autoencoder
    raw = rng.integers(0, 7, (2, *modality.shape)).astype(modality.dtype)
    ids = tokenizer.encode(raw)
    np.testing.assert_array_equal(ids, model.tokenize(raw))
    assert tokenizer.grid == {"labels": (4, 4), "vector": (1, 4), "divae": (4, 4)}[name]
    assert ids.max() < tokenizer.vocab_size
    if name != "divae":  # fifty steps of a random network
        assert tokenizer.decode(ids).shape == raw.shape


@pytest.mark.parametrize("config", [clip_b16, siglip_b16])
def test_transformers_there_and_back(tmp_path, config, capsys, monkeypatch):
    run = build.parse(config.get_config("tiny"))
    objectives = build.objectives(run)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(init_function(build.models(run, objectives), objectives, 0)[1])
    params = jax.tree.map(lambda s: np.asarray(rng.normal(size=s.shape), np.float32), shapes)
    model = build.model_config(run)
    folder = transformers.write(tmp_path / "folder", model, run.modalities, objectives, params)
    workdir, out = tmp_path / "run", tmp_path / "out"
    for args in ([f"--read={folder}"], [f"--write={out}", "--image=image"]):
        monkeypatch.setattr(sys, "argv", ["convert", f"--workdir={workdir}", *args])
        convert.main()
    assert f"wrote {out}: README.md, config.json, model.safetensors" in capsys.readouterr().out
    for file in folder.iterdir():
        assert file.name == "README.md" or file.read_bytes() == (out / file.name).read_bytes(), file.name
    held = restore(workdir)
    jax.tree.map(np.testing.assert_array_equal, held.params, params)
    assert held.run.modalities[1].tokenizer == str(workdir / "tokenizer.json")
    # A run with a tower of that name starts from it.
    fresh = jax.tree.map(np.zeros_like, params)
    names = Load(str(workdir), ("image",)).names(tuple(held.params["model"]), tuple(fresh["model"]))
    taken, report = start([Source("there", restore(workdir), names)], fresh, held.roles)
    assert report.loaded and not report.new and not taken["model"]["text_embed"]["table"].any()
    image = [name for name in params["model"] if name.startswith("image_")]
    last = {clip_b16: "image_project", siglip_b16: "image_pool"}[config]  # SigLIP pools by attention and projects not
    assert {"image_embed", "image_encoder", last} == {*image}
    for name in image:
        jax.tree.map(np.testing.assert_array_equal, taken["model"][name], params["model"][name])
