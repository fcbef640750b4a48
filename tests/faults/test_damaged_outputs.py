"""What the project writes beside checkpoints is checked when it is used, or by `tools.store check`."""

import hashlib
import json
import shutil

import pytest

from data_pipeline.seal import seal
from data_pipeline.sources import tokens
from pretrain import digests, storage
from tools import store


def test_a_config_of_other_values_is_refused(tmp_path):
    """A flipped bit leaves it valid JSON: another learning rate, another mean of the pixels."""
    storage.write_config(tmp_path, {"optim": {"lr": 0.001}, "steps": 10})
    file = tmp_path / "config.json"
    assert storage.read_config(tmp_path) == {"optim": {"lr": 0.001}, "steps": 10}
    file.write_text(file.read_text().replace("0.001", "0.003"))
    with pytest.raises(ValueError, match=rf"{file} is broken \(.*another sha256 .*bring it back from a copy"):
        storage.read_config(tmp_path)


def test_a_manifest_of_other_values_is_refused(tmp_path, token_store):
    shutil.copytree(token_store, tmp_path / "store")
    file = tmp_path / "store" / "manifest.json"
    file.write_text(file.read_text().replace('"vocab_size": 1024', '"vocab_size": 1025'))
    with pytest.raises(ValueError, match=rf"{file}: .*another sha256 than it says; copy it again"):
        tokens.Source(tmp_path / "store")


def test_prepared_tars_are_checked(tmp_path):
    (tmp_path / "train").mkdir()
    tar = tmp_path / "train" / "00000.tar"
    tar.write_bytes(b"tar")
    about = {"examples": 1, "sha256": hashlib.sha256(b"tar").hexdigest()}
    report = seal({"plan": {}, "splits": {}, "shards": {"train/00000.tar": about, "train/00001.tar": about}})
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert store.check(tmp_path) == [f"{tmp_path}/train/00001.tar is missing; copy it again"]
    shutil.copy(tar, tmp_path / "train" / "00001.tar")
    assert store.check(tmp_path) == []
    tar.write_bytes(b"tbr")
    assert store.check(tmp_path) == [f"{tar}: another sha256 than report.json says; copy it again"]
    (tmp_path / "report.json").write_text(json.dumps(report).replace('"examples": 1', '"examples": 2'))
    (problem,) = store.check(tmp_path)
    assert "report.json is broken (it was changed since it was written" in problem


def test_an_export_is_checked_when_it_is_loaded(tmp_path):
    torch_model = pytest.importorskip("pretrain.interop.torch_model")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    digests.write(tmp_path)
    torch_model.check(tmp_path)
    assert store.check(tmp_path) == []
    (tmp_path / "model.safetensors").write_text("model.safetensorr")
    with pytest.raises(ValueError, match=r"model.safetensors has another sha256 than SHA256SUMS says: copy the folder"):
        torch_model.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is missing, which SHA256SUMS lists: copy the folder"):
        torch_model.load(tmp_path)
    assert len(store.check(tmp_path)) == 1
