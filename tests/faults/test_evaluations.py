"""What an evaluation needs is known before the first step, its failure costs its scores alone, no number is false."""

import json
import math

import numpy as np
import pytest
from vector_run import config, write_split

from pretrain.checkpoint import load_params, read_info, steps
from pretrain.evals import losses
from pretrain.evals.base import Context
from pretrain.evals.during import During
from pretrain.restore import restore
from pretrain.train import train


@pytest.fixture
def data(tmp_path):
    write_split(tmp_path / "data", "train", 32)
    write_split(tmp_path / "data", "val", 5, seed=1)
    return tmp_path / "data"


def rows(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def scripted(monkeypatch, *values):
    """The evaluator gives these losses one after another; an exception is raised."""
    left = list(values)

    def run(self, params):
        yield "other", 1.0
        value = left.pop(0)
        if isinstance(value, Exception):
            raise value
        yield "loss", value

    monkeypatch.setattr(losses.Evaluator, "run", run)


def test_a_split_smaller_than_a_batch_is_evaluated_whole(data, tmp_path):
    train(config(data, checkpoint__best="val/loss"), tmp_path / "run")
    found = {row["step"]: row["val/loss"] for row in rows(tmp_path / "run") if "val/loss" in row}
    assert set(found) == {2, 4} and all(map(math.isfinite, found.values()))
    assert steps(tmp_path / "run") == [2, 4]


def test_a_mean_is_over_every_example_whatever_the_batches(data, tmp_path):
    """Of 5 examples in batches of 1, 2, 3, 5 and 64, against NumPy."""
    edges = [dict(a="a", b="b")]
    c = config(data, objectives=dict(uniformity=dict(edges=edges, uniform=0.0)), evals={}, steps=1, checkpoint__every=1)
    train(c, tmp_path / "run")
    held = restore(tmp_path / "run")
    context = Context(held.run, held.graphs, held.objectives)
    lines = [json.loads(line) for line in (data / "val.jsonl").read_text().splitlines()]
    z = []
    for name in "ab":
        kernel = np.asarray(held.params["model"][f"{name}_project"]["linear"]["kernel"])
        x = np.array([line[name] for line in lines]) @ kernel
        z.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    wanted = np.square(z[0] - z[1]).sum(1).mean()
    for size in (1, 2, 3, 5, 64):
        found = dict(losses.Evaluator(context, batch_size=size).run(held.params))
        assert found["uniformity/align a~b"] == pytest.approx(wanted, rel=1e-5), size
        assert found["loss"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(evals__val__split="dev"), r"config\.evals\.val\.split='dev': .*train, val"),
        (dict(final_evals=dict(x=dict(evaluator="losses", split="test"))), r"config\.final_evals\.x\.split='test'"),
        (
            dict(final_evals=dict(near=dict(evaluator="retrieval", pairs=[("a", "b")], splits=["x", "y"]))),
            r"config\.final_evals\.near\.splits=\('x', 'y'\)",
        ),
        (dict(final_evals=dict(near=dict(evaluator="retreival"))), r"config\.final_evals\.near\.evaluator='retreival'"),
        (
            dict(evals__near=dict(evaluator="knn", modalities=["a"], labels=["kind"], splits=["val"])),
            "knn.labels: 'kind': row 0 of 'train' has no such field",
        ),
        (dict(evals__val=3), r"config\.evals\.val=3: expected a dict"),
        (dict(evals__val__every=-1), r"config\.evals\.val\.every=-1"),
        (dict(checkpoint__best="val"), r"checkpoint\.best='val': write val/METRIC"),
    ],
)  # fmt: skip
def test_what_an_evaluation_lacks_is_known_before_the_first_step(data, tmp_path, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        train(config(data, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_field_must_be_in_every_split(data, tmp_path):
    write_split(data, "val", 5, names=("a", "b", "text"))
    with pytest.raises(ValueError, match=r"config\.evals\.val\.split='val': modality 'c': field='c' is unknown"):
        train(config(data), tmp_path / "run")
    near = dict(evaluator="retrieval", pairs=[["a", "c"]], splits=["train", "val"])
    with pytest.raises(ValueError, match=r"config\.final_evals\.near\.splits=\('train', 'val'\): modality 'c'"):
        train(config(data, evals={}, final_evals=dict(near=near)), tmp_path / "run")


def test_a_split_that_is_not_there_is_left_out_and_said(data, tmp_path, capsys):
    run = dict(evals=dict(near=dict(evaluator="retrieval", pairs=[("a", "b")])), steps=1, checkpoint__every=1)
    train(config(data, **run), tmp_path / "run")
    assert "no split test: evaluated on val alone" in capsys.readouterr().out
    assert rows(tmp_path / "run")[-1]["near/a↔b/candidates"] == 5


def test_a_failing_evaluation_costs_its_scores_alone(data, tmp_path, monkeypatch, capsys):
    scripted(monkeypatch, ValueError("row 3 is broken"), KeyError("x"))
    train(config(data), tmp_path / "run")
    out = capsys.readouterr().out
    assert "step 2: config.evals.val failed, and the run goes on without its scores: ValueError: row 3 is broken" in out
    assert "step 4: config.evals.val failed" in out and steps(tmp_path / "run") == [2, 4]
    assert [row["val/other"] for row in rows(tmp_path / "run") if "val/other" in row] == [1.0, 1.0]


def test_the_last_checkpoint_is_there_before_the_last_evaluation(data, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def run(self, params):
        raise Killed

    monkeypatch.setattr(losses.Evaluator, "run", run)
    with pytest.raises(Killed):
        train(config(data, evals__val__every=0), tmp_path / "run")
    assert steps(tmp_path / "run") == [2, 4]


@pytest.mark.parametrize("bad", [math.nan, -math.inf, ValueError("no")])
def test_what_is_not_finite_or_missing_is_never_the_best(data, tmp_path, monkeypatch, capsys, bad):
    scripted(monkeypatch, bad, 1.0, 2.0)
    train(config(data, steps=6, checkpoint__keep=1, checkpoint__best="val/loss"), tmp_path / "run")
    assert steps(tmp_path / "run") == [4, 6]
    assert "checkpoint.best='val/loss'" in capsys.readouterr().out


def test_a_misspelt_best_names_the_scores_that_there_are():
    evals, said = object.__new__(During), []
    evals._best = "val/los"
    assert evals.rank({"val/loss": 1.0}, said.append) is None
    assert said == [
        "config.checkpoint.best='val/los' has no value: this checkpoint cannot be the best; there are val/loss"
    ]


def test_a_term_that_no_example_had_has_no_value(data, tmp_path, capsys):
    """c is there, but in no example together with a."""
    write_split(data, "val", 6, changed={row: {"c": None} if row % 2 else {"a": None} for row in range(6)})
    train(config(data, checkpoint__best="val/loss"), tmp_path / "run")
    found = [row for row in rows(tmp_path / "run") if "val/contrastive/a~b" in row]
    assert len(found) == 2 and all("val/loss" not in row and "val/contrastive/a~c" not in row for row in found)
    out = capsys.readouterr().out
    assert "not one example of 'val' has what contrastive/a~c needs: no value, and no total loss" in out
    assert "checkpoint.best='val/loss' has no value" in out


def test_terms_that_are_logarithms_of_means_have_no_value_without_pairs(data, tmp_path):
    """Uniformity of fewer than two examples."""
    write_split(data, "val", 3, changed={row: {"b": None} for row in (0, 1)})
    objectives = dict(uniformity=dict(edges=[dict(a="a", b="b")], cross=1.0))
    train(config(data, objectives=objectives, steps=1, checkpoint__every=1), tmp_path / "run")
    found = next(row for row in rows(tmp_path / "run") if "val/uniformity/align a~b" in row)
    assert "val/loss" not in found and not any("uniform a~b" in key or "cross" in key for key in found)


def test_training_shows_no_loss_where_no_example_had_any_term(data, tmp_path):
    write_split(
        data, "train", 32, changed={row: {"a": None} if row % 2 else {"b": None, "c": None} for row in range(32)}
    )
    train(config(data, evals={}, steps=2), tmp_path / "run")
    assert all("loss" not in row for row in rows(tmp_path / "run"))


def test_a_row_that_is_not_finite_is_named_at_once(data, tmp_path):
    for value in (math.nan, math.inf, 1e39):
        write_split(data, "train", 32, changed={5: {"b": [0.0, value, 0.0, 0.0]}})
        with pytest.raises(ValueError, match="modality 'b': row 5 holds b that is not finite"):
            train(config(data, evals={}), tmp_path / "run")
    assert not steps(tmp_path / "run")


def test_skipped_steps_take_the_place_of_no_checkpoint(data, tmp_path, capsys):
    """Vectors near float32's end: finite, as they must be, but their products are not."""
    more = dict(evals={}, optim__final_lr=1.0)
    train(config(data, **more), tmp_path / "run")
    write_split(data, "train", 32, changed={row: {"a": [3e38] * 4} for row in range(32)})
    with pytest.raises(FloatingPointError, match=r"in another --workdir with a lower optim\.lr, or with optim\.clip$"):
        train(config(data, **more, steps=12, optim__max_skipped=5), tmp_path / "other")
    with pytest.raises(FloatingPointError, match=r"from the weights of step 4 with --config\.load=.*run$"):
        train(config(data, **more, steps=30), tmp_path / "run")
    assert steps(tmp_path / "run") == [2, 4]
    capsys.readouterr()
    train(config(data, **more, steps=8), tmp_path / "run")
    out = capsys.readouterr().out
    assert "step 6: not saved, as it was skipped; what is saved is step 4" in out
    assert steps(tmp_path / "run") == [4, 8], "the last is saved in any case: its weights are those of step 4"
    before, after = (load_params(tmp_path / "run", step) for step in (4, 8))
    np.testing.assert_array_equal(before["model"]["a_project"]["linear"]["kernel"],
                                  after["model"]["a_project"]["linear"]["kernel"])  # fmt: skip
    assert read_info(tmp_path / "run")
