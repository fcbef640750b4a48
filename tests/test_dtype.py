"""`model.dtype="auto"`: what is measured is chosen, and a workdir goes on as it began."""

import pytest
import tiny
from ml_collections import ConfigDict

from pretrain import dtype
from pretrain.storage import write_config


def config(**more):
    return ConfigDict(dict(steps=2, model=dict(dtype="auto", dim=16)) | more)


@pytest.fixture
def faster(monkeypatch):
    """Sets which type the measurement finds faster."""

    def set_faster(name):
        monkeypatch.setattr(dtype, "measure", lambda: {d: 1.0 if d == name else 2.0 for d in dtype.DTYPES})

    return set_faster


@pytest.mark.parametrize("name", dtype.DTYPES)
def test_the_faster_type_is_chosen_and_told(faster, name, tmp_path, capsys):
    faster(name)
    asked = config()
    settled = dtype.settle(asked, tmp_path)
    assert settled.model.dtype == name and asked.model.dtype == "auto" and settled.model.dim == 16
    assert f"model.dtype=auto: {name}; a block" in capsys.readouterr().out


@pytest.mark.parametrize("phases, folder", [({}, ""), (dict(phases=[dict(name="warm", steps=1)]), "0_warm")])
def test_a_run_goes_on_in_the_type_that_it_began_in(faster, phases, folder, tmp_path):
    faster("bfloat16")
    (tmp_path / folder).mkdir(exist_ok=True)
    write_config(tmp_path / folder, dict(model=dict(dtype="float32")))
    assert dtype.settle(config(**phases), tmp_path).model.dtype == "float32"


def test_a_workdir_that_does_not_say_its_type_has_the_default(monkeypatch, tmp_path):
    monkeypatch.setattr(dtype, "measure", None)
    write_config(tmp_path, dict(model=dict(dim=16)))
    assert dtype.settle(config(), tmp_path).model.to_dict() == dict(dim=16)


def test_a_type_that_is_named_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(dtype, "measure", None)
    named, none = config(model=dict(dtype="float32")), ConfigDict(dict(steps=2))
    assert dtype.settle(named, tmp_path) is named and dtype.settle(none, tmp_path) is none


def test_both_types_are_measured(monkeypatch):
    monkeypatch.setattr(dtype, "SHAPE", (1, 4))
    assert set(found := dtype.measure()) == set(dtype.DTYPES) and min(found.values()) > 0


def test_what_was_not_settled_is_named():
    with pytest.raises(ValueError, match=r"model.dtype='auto': must be float32 or bfloat16; auto is for a training"):
        tiny.config(dtype="auto")
