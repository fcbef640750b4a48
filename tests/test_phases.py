"""Stages of one run: each starts from the one before, resumes to the bit, and is measured on the data of all."""

import json
import shutil

import jax
import numpy as np
import pytest
from laws import run_cli
from test_load import flat
from vector_run import config, write_split

from pretrain import phases
from pretrain.checkpoint import load_params, steps
from pretrain.train import train
from tools import show

FOLDERS = ["0_first", "1_second", "2_third"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two folders of vectors, in which other things go together."""
    folder = tmp_path_factory.mktemp("data")
    for i, name in enumerate(("one", "two")):
        for split, count in (("train", 32), ("val", 8)):
            write_split(folder / name, split, count, seed=i)
    return folder


def three(data, **changes):
    """A peer that the second phase alone has; the third keeps near where it began."""
    evals = dict(retrieval=dict(pairs=[["a", "b"]], splits=["val"]))
    c = config(data / "one", steps=2, final_evals=evals, **changes)
    edge = [dict(a="a", b="b")]
    c.phases = [
        dict(name="first"),
        dict(name="second", steps=4, data=dict(path=str(data / "two")), models=dict(peer={}), optim=dict(lr=1e-3)),
        dict(
            name="third", references=dict(before=dict(reference="snapshot")),
            objectives=dict(
                contrastive=dict(edges=edge), before=dict(objective="uniformity", model="before", edges=edge)
            ),
        ),
    ]  # fmt: skip
    return c


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    assert phases.train_phases(three(data), workdir)
    return workdir


def test_a_phase_is_what_differs(data):
    made = dict(phases.split(three(data)))
    assert list(made) == FOLDERS and not any("phases" in c for c in made.values())
    first, second, third = made.values()
    assert (first.steps, second.steps, third.steps, third.seed) == (2, 4, 2, 2)
    assert second.data.path.endswith("two") and second.data.source == "files" and third.data.path.endswith("one")
    assert dict(second.optim) == dict(first.optim) | dict(lr=1e-3) and set(third.objectives) == {
        "contrastive",
        "before",
    }


def test_each_starts_from_the_one_before(data, whole, tmp_path):
    """What the second phase learns is what a run of its own learns that loads the first."""
    _, (folder, c), _ = phases.split(three(data))
    c.load = [dict(workdir=str(whole / "0_first"))]
    train(c, tmp_path / "alone")
    alone, here = (load_params(workdir) for workdir in (tmp_path / "alone", whole / folder))
    jax.tree.map(np.testing.assert_array_equal, alone, here)
    assert set(here) == {"model", "objective", "models"} and set(load_params(whole / "2_third")) == {
        "model",
        "objective",
    }


def test_every_phase_is_measured_on_every_domain(whole):
    matrix = json.loads((whole / "phases.json").read_text())
    assert list(matrix) == FOLDERS and all(list(row) == FOLDERS for row in matrix.values())
    numbers = {key for row in matrix.values() for scores in row.values() for key in scores}
    assert any(key.startswith("retrieval/a") for key in numbers), numbers
    assert matrix["0_first"]["0_first"] == matrix["0_first"]["2_third"] != matrix["0_first"]["1_second"]
    told = show.describe(whole)
    assert told.startswith("phases       0_first, 1_second, 2_third") and told.count("forgetting ") > 2


@pytest.mark.parametrize("lost", [["2_third"], ["2_third", "1_second/checkpoints/4", "phases.json"]], ids=str)
def test_killed_anywhere_it_resumes_in_the_right_phase(data, whole, tmp_path, lost):
    """In a copy, which lies elsewhere."""
    copy = shutil.copytree(whole, tmp_path / "run")
    c = three(data)
    for name in lost:
        (shutil.rmtree if (copy / name).is_dir() else lambda p: p.unlink())(copy / name)
    assert phases.train_phases(c, copy)
    for folder in FOLDERS:
        jax.tree.map(np.testing.assert_array_equal, load_params(copy / folder), load_params(whole / folder))
    assert json.loads((copy / "phases.json").read_text()) == json.loads((whole / "phases.json").read_text())


@pytest.mark.slow
def test_the_program_trains_phases(tmp_path, data):
    text = json.dumps(three(data).to_dict())
    (tmp_path / "config.py").write_text(
        f"import json\nfrom ml_collections import ConfigDict\nget_config = lambda: ConfigDict(json.loads({text!r}))\n"
    )
    how = tmp_path / "config.py", tmp_path / "run", {"phases[1].steps": 3}
    assert "after 1_second, 0_first: retrieval/" in run_cli(*how)
    assert [max(steps(tmp_path / "run" / folder)) for folder in FOLDERS] == [2, 3, 2]
    assert "-- phase 2_third is done" in run_cli(*how)


@pytest.mark.parametrize(
    "phase, error",
    [
        (dict(steps=1), r"config.phases\[1\].name='': give it a name of letters"),
        (dict(name="a/b"), r"config.phases\[1\].name='a/b': give it a name of letters"),
        (dict(name="b", load="x"), r"config.phases\[1\].load: a phase starts from the one before it: leave it out"),
        (dict(name="b", step=1), r"phase 1_b: config.step=1: unknown key; did you mean .steps"),
        (dict(name="b", data=dict(path="/nowhere")), r"phase 1_b: .*/nowhere"),
        (dict(name="b", evals=dict(val=dict(evaluator="losses", split="no"))), r"phase 1_b: .*split='no'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_before_the_first_phase(data, tmp_path, phase, error):
    c = config(data / "one", phases=[dict(name="a"), phase])
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=error):
        phases.train_phases(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"config.phases=\[\]: list at least one"):
        phases.split(config(data / "one", phases=[]))


@pytest.mark.parametrize(
    "given, error",
    [
        (dict(a=1), r"config.phases={'a': 1}: list dicts"), (["a"], r"config.phases=\['a'\]: list dicts"),
        ([dict(name="a", data="x")], r"config.phases\[0\].data='x': give a dict of the settings that differ"),
    ],
    ids=str,
)  # fmt: skip
def test_phases_that_are_no_list_of_dicts(data, given, error):
    with pytest.raises(ValueError, match=error):
        phases.split(config(data / "one", phases=given))


def test_scores_that_broke_are_measured_again(data, whole, tmp_path, monkeypatch, capsys):
    """And a task that fails costs its scores alone."""
    copy, c = shutil.copytree(whole, tmp_path / "run"), three(data)
    (copy / "phases.json").write_text('{"0_first": ')
    fail = lambda tasks, params: 1 / 0
    with monkeypatch.context() as patch:
        patch.setattr(phases, "score", fail)
        assert phases.train_phases(c, copy)
    said = capsys.readouterr().out
    assert "phases.json is broken" in said and "after 0_first, 1_second: no scores: ZeroDivisionError" in said
    assert phases.train_phases(c, copy)
    assert json.loads((copy / "phases.json").read_text()) == json.loads((whole / "phases.json").read_text())


def test_a_phase_that_is_done_stays_what_it_was(data, whole, tmp_path):
    copy, c = shutil.copytree(whole, tmp_path / "run"), three(data)
    c.phases[0]["optim"] = dict(lr=0.5)
    with pytest.raises(ValueError, match=r"0_first belongs to a run of another config"):
        phases.train_phases(c, copy)
    assert flat(load_params(copy / "0_first")).keys()
