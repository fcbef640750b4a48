"""The experiments run, judge by gates that stand in their files, and write what came out."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from tools import systems
from tools.experiments import align, gap, ggem, ranking, steps, symile_xor
from tools.experiments.common import Gate, finish, options

FOLDER = Path(symile_xor.__file__).parent
SCRIPTS = sorted({p.stem for p in FOLDER.glob("*.py")} - {"__init__", "common"})

# Three need what is trained, and two are no training of ours but break one.
NOT_SMALL = ("joint", "finetune", "bfloat16", "kill", "flips")


def test_a_page_or_the_readme_tells_of_every_script():
    about, claimed = (
        (FOLDER / "README.md").read_text(),
        {s.CLAIM.experiment for row in systems.rows() if (s := systems.config_of(row))},
    )
    told = {s for s in SCRIPTS if f"experiments.{s}`" in about or f"experiments.{s} " in about}
    assert len(SCRIPTS) > 9 and set(SCRIPTS) == told | claimed


def test_symile_xor_on_two_bits():
    results = symile_xor.measure(bits=2, steps=4, batch=16, seeds=2, quarters=(4,))
    assert set(results) == set(symile_xor.OBJECTIVES)
    values = np.asarray([list(run.values()) for runs in results.values() for run in runs])
    assert values.shape == (4, 1) and np.isfinite(values).all() and ((0 <= values) & (values <= 1)).all()


def test_ceilings():
    assert symile_xor.ceilings(5, 1.0) == pytest.approx({"Symile": 1.0, "pairwise CLIP": 1 / 32})
    assert symile_xor.ceilings(5, 0.5) == pytest.approx(dict.fromkeys(symile_xor.OBJECTIVES, (1 + 1 / 32) / 2))


def test_diagnostics_see_a_gap():
    x = np.random.default_rng(0).normal(size=(200, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    shifted = x + np.eye(8)[0]
    shifted /= np.linalg.norm(shifted, axis=1, keepdims=True)
    closed, wide = gap.diagnostics(x, x), gap.diagnostics(x, shifted)
    assert closed["gap"] == 0 and closed["separability"] == pytest.approx(0.5) and closed["R@1"] == 1.0
    assert wide["gap"] > 0.5 and wide["separability"] > 0.7 and wide["uniformity"] > closed["uniformity"]


@pytest.mark.parametrize(
    "values, gate, verdict, mean",
    [
        ((0.5, 0.6, 0.7), dict(bound=0.3), "holds", 0.6),
        ((0.5, 0.6, 0.7), dict(bound=0.55), "weak", 0.6),
        ((0.5, 0.6, 0.7), dict(bound=0.6), "refuted", 0.6),
        ((0.5, 0.6, 0.7), dict(control="b"), "holds", 0.5),  # seed by seed, that is without the spread over seeds
        ((0.5, 0.6, 0.7), dict(control="b", sign=-1), "refuted", -0.5),
        ((0.0, 0.1, 0.2), dict(control="b", sign=-1, bound=-0.03), "holds", 0.0),
        ((0.7,), {}, "weak", 0.7),  # one seed says nothing of the spread
        ((1.0, 1.0), dict(bound=0.99), "holds", 1.0),
    ],
)
def test_a_gate_is_a_paired_difference_beyond_two_standard_errors(values, gate, verdict, mean):
    results = {"a": [{"x": v} for v in values], "b": [{"x": 0.1 * i} for i in range(len(values))]}
    found = Gate("…", "x", "a", **gate).judge(results)
    assert found["verdict"] == verdict and found["mean"] == pytest.approx(mean)


def test_a_result_says_how_it_came_about_and_its_worst_gate(tmp_path):
    out = tmp_path / "new" / "one.json"
    args = options("…", ["--steps=7", f"--out={out}"], dict(steps=(5, 2, "of training")))
    results = {"ours": [{"x": 1.0}, {"x": 2.0}], "theirs": [{"x": 0.0}, {"x": 1.5}]}
    gates = Gate("ours is above 0", "x", "ours", bound=-9.0), Gate("and below theirs", "x", "ours", "theirs", -1)
    finish("one", args, "of two", results, systems=[4], control="theirs", gates=(*gates, Gate("", "x", "a third")))
    found = json.loads(out.read_text())
    assert found["command"] == "python -m tools.experiments.one --steps=7" and found["seeds"] == [0, 1]
    assert found["conditions"]["theirs"] == {"x": [0.0, 1.5]} and found["control"] == "theirs"
    assert [g["verdict"] for g in found["gates"]] == ["holds", "refuted"] and found["verdict"] == "refuted"
    assert set(found["machine"]) == {"backend", "cpus", "jax", "python"}, "nothing personal"


def test_a_smoke_run_leaves_no_result_where_it_was_not_asked_to(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.experiments.common.RESULTS", tmp_path)
    args = options("…", ["--smoke"], dict(steps=(5, 2, "of training")))
    assert args.steps == 2
    finish("one", args, "", {"a": [{"x": 1.0}]}, systems=[], control="a", gates=())
    assert not list(tmp_path.iterdir())
    finish("one", options("…", [], {}), "", {"a": [{"x": 1.0}]}, systems=[], control="a", gates=(), variant="b")
    assert [p.name for p in tmp_path.iterdir()] == ["one_b.json"]


def test_shuffled_pairs_and_the_first_examples():
    data = {"row": np.arange(100)[:, None]} | {n: {"vectors": np.arange(100.0)[:, None]} for n in "ab"}
    found = align.shuffled(align.first(data, 50), 0.3, np.random.default_rng(0))
    moved = found["a"]["vectors"] != found["b"]["vectors"]
    assert moved.sum() == 15 and sorted(found["b"]["vectors"][:, 0]) == list(range(50))


def test_evidence_is_a_peak_in_one_group_and_spread_in_the_other():
    x, y = map(np.asarray, ggem.examples(np.random.default_rng(0), 2000))
    of = lambda z, group: (z.reshape(2000, 2, ggem.CLASSES)[:, group].argmax(1) == y[:, group]).mean()
    assert of(x.max(1), 0) > of(x.mean(1), 0) and of(x.mean(1), 1) > of(x.max(1), 1) > 1 / ggem.CLASSES


def test_walks_keep_their_rule_and_random_grids_do_not():
    ids = steps.walks(0, 300)["walk"]["ids"][:, 0]
    assert steps.consistent(ids) == 1.0 and set(np.unique(ids)) == set(range(steps.VALUES))
    assert steps.consistent(np.asarray([[0, 1, 2, 5]])) == 0, "an odd step is not enough"
    assert steps.consistent(np.random.default_rng(0).integers(steps.VALUES, size=(300, 16))) < 0.02


def test_the_directions_of_retrieval_are_told_apart():
    a = np.eye(4)
    b = a + np.asarray([[0, 0, 0, 0]] * 3 + [[0, 0, 9, 0]])
    i2t, t2i = ranking.directed_recall_at_1(a, b)
    assert (i2t, t2i) == (1.0, 0.75)


@pytest.mark.slow
@pytest.mark.parametrize("name", [s for s in SCRIPTS if s not in NOT_SMALL])
def test_the_smallest_size_runs_from_the_command_line(name, tmp_path):
    importlib.import_module(f"tools.experiments.{name}").main(["--smoke", f"--out={tmp_path / 'result.json'}"])
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["gates"] and found["control"] in found["conditions"] and found["command"].endswith("--smoke")
