"""A run goes on on what is the same: moved data, more steps where the schedule allows them; all else is refused."""

import re
import shutil
import struct
import sys
import types

import numpy as np
import pytest
from vector_run import config, write_split

from pretrain.checkpoint import load_params, steps
from pretrain.train import train

SPLITS = {"train": (32, 0), "val": (8, 1)}


@pytest.fixture
def data(tmp_path):
    for split, (count, seed) in SPLITS.items():
        write_split(tmp_path / "data", split, count, seed=seed)
    return tmp_path / "data"


def two_steps(folder, **changes):
    """A run of four steps that ended after two; its learning rate is the same at every step."""
    return config(folder, **{"steps": 2, "optim__final_lr": 1.0, "evals": {}} | changes)


def test_moved_data_other_workers_and_more_steps(data, tmp_path, capsys):
    train(two_steps(data, steps=4), tmp_path / "whole")
    train(two_steps(data), tmp_path / "run")
    shutil.move(data, tmp_path / "elsewhere")
    changed = dict(data__workers=0, checkpoint__keep=5, checkpoint__every=1, log__every=2, evals__val__every=1)
    changed |= dict(evals__val__evaluator="losses", mesh="fsdp")
    train(two_steps(tmp_path / "elsewhere", steps=4, **changed), tmp_path / "run")
    out = capsys.readouterr().out
    assert "from step 2 of 4" in out and "the data changed" not in out and steps(tmp_path / "run") == [2, 3, 4]
    for name in ("whole", "run"):
        found = load_params(tmp_path / name, 4)["model"]["a_project"]["linear"]["kernel"]
        if name == "whole":
            wanted = np.asarray(found)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_sources_of_a_mixture_may_move_each(data, tmp_path):
    shutil.copytree(data, tmp_path / "other")
    parts = [dict(source="files", path=str(p), weight=1.0) for p in (data, tmp_path / "other")]
    train(two_steps(data, data=dict(sources=parts)), tmp_path / "run")
    shutil.move(tmp_path / "other", tmp_path / "moved")
    parts[1]["path"] = str(tmp_path / "moved")
    train(two_steps(data, data=dict(sources=parts), steps=3), tmp_path / "run")
    parts[1]["weight"] = 2.0
    with pytest.raises(ValueError, match=r'(?s)another config.*-\s*"weight": 1\.0.*\+\s*"weight": 2\.0'):
        train(two_steps(data, data=dict(sources=parts), steps=3), tmp_path / "run")


def test_other_data_are_no_continuation(data, tmp_path):
    train(two_steps(data), tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    for split, (count, _) in SPLITS.items():
        write_split(tmp_path / "other", split, count, seed=9)
    with pytest.raises(ValueError, match=r"config\.data: other data than those of the last checkpoint .*train:"):
        train(two_steps(tmp_path / "other", steps=4), tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_text() == before


@pytest.mark.parametrize(
    "changes, line",
    [
        (dict(steps=4, optim__final_lr=0.5), '"final_lr": 0.5'),
        (dict(optim__lr=1e-4), '"lr": 0.0001'),
        (dict(batch_size=16), '"batch_size": 16'),
        (dict(seed=1), '"seed": 1'),
        (dict(data__transforms=[dict(transform="crop", flip=0.5)]), '"flip": 0.5'),
        (dict(data__train="val"), '"train": "val"'),
    ],
)
def test_what_changes_what_is_learned_is_refused_with_the_difference(data, tmp_path, changes, line):
    train(two_steps(data, steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match="belongs to a run of another config") as e:
        train(two_steps(data, **changes), tmp_path / "run")
    assert re.search(rf"(?m)^\+ *{line},?$", str(e.value)), str(e.value)


def test_a_config_that_says_its_defaults_is_the_same_as_one_that_does_not(data, tmp_path):
    said = dict(
        seed=0, accum=1, load="", ema=0.0, data__train="train", optim__b1=0.9, model__remat="none", mesh="ddp",
        objectives__contrastive__temperature=0.07,
    )  # fmt: skip
    train(two_steps(data, **said), tmp_path / "run")
    assert train(two_steps(data, steps=4), tmp_path / "run").step == 4
    with pytest.raises(ValueError, match=r'(?s)belongs to a run of another config.*\n\+ *"temperature": 0.1') as e:
        train(two_steps(data, steps=4, objectives__contrastive__temperature=0.1), tmp_path / "run")
    assert len(re.findall(r"(?m)^[-+] ", str(e.value))) == 2, "only what differs is shown"


def test_a_cosine_does_not_allow_more_steps(data, tmp_path):
    train(config(data, steps=2), tmp_path / "run")
    with pytest.raises(ValueError, match=r'(?s)another config.*-\s*"steps": 2.*\+\s*"steps": 4'):
        train(config(data, steps=4), tmp_path / "run")


def test_weights_and_biases_goes_on_with_the_same_run(data, tmp_path, monkeypatch):
    """Against a stand-in: the name that it is given is the workdir's, the same every time."""
    begun = []

    class Run:
        log = finish = lambda self, *args, **kw: None

    def init(**how):
        begun.append(how)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for name, count in (("run", 2), ("run", 3), ("other", 2)):
        train(two_steps(data, steps=count, log__wandb="project"), tmp_path / name)
    ids = [how["id"] for how in begun]
    assert ids[0] == ids[1] != ids[2] and all(how["resume"] == "allow" and len(how["id"]) == 16 for how in begun)


def test_tensorboard_hides_what_is_written_again(data, tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")

    def events(file):
        held, at = file.read_bytes(), 0
        while at < len(held):
            (size,) = struct.unpack("<Q", held[at : at + 8])
            yield event_pb2.Event.FromString(held[at + 12 : at + 12 + size])
            at += size + 16

    for count in (2, 4):
        train(two_steps(data, steps=count, log__tensorboard=True), tmp_path / "run")
    files = sorted((tmp_path / "run" / "tensorboard").iterdir(), key=lambda f: f.stat().st_mtime)
    starts = [[e.step for e in events(f) if e.HasField("session_log")] for f in files]
    assert starts == [[], [3]], "a second file that takes the place of all from step 3 on"
