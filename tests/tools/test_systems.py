"""Every system that is said to work has a config that builds at both sizes, a formula test and a result; the pages of
docs/systems are what `tools.systems` writes.
"""

import ast
import dataclasses
import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from toy_run import write_first

from pretrain import build
from pretrain.evals.base import Context
from pretrain.phases import stages, train_phases
from pretrain.restore import init_function, restore
from pretrain.step import evaluate_objectives, example_keys
from pretrain.train import train
from tools import systems
from tools.experiments.common import RESULTS, VERDICTS

ROOT = Path(__file__).parents[2]
ROWS = {row["name"]: row for row in systems.rows() if row["name"]}
NAMES = sorted(p.stem for p in (ROOT / "configs" / "systems").glob("*.py") if p.stem != "__init__")
of_system = pytest.mark.parametrize("name", NAMES)


def config(name, arg=""):
    return importlib.import_module(f"configs.systems.{name}").get_config(arg)


def test_the_rows_are_those_of_82_systems():
    rows = systems.rows()
    assert [row["number"] for row in rows] == list(range(1, 83))
    assert len(ROWS) == len([row for row in rows if row["name"]]) and set(NAMES) <= set(ROWS)
    assert all(bool(row["outside"]) != bool(row["name"]) for row in rows), "either it has a name, or a reason"


@of_system
def test_a_system_says_what_it_is(name):
    system, row = systems.config_of(ROWS[name]), ROWS[name]
    first, second = system.__doc__.split("\n\n")[:2]
    assert row["title"].lower() in " ".join(first.lower().split()) and f"(arXiv {row['arxiv']})" in first
    assert second.startswith("Carried: ")
    assert len(Path(system.__file__).read_text().splitlines()) < 120
    assert isinstance(system.APPROXIMATE, tuple) and all(vars(system.CLAIM).values())


@pytest.mark.slow
@of_system
def test_the_published_size_evaluates_its_shapes_and_the_tiny_one_builds(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arg in ("", "tiny"):
        write_first(systems.config_of(ROWS[name]), arg, tmp_path)
        for _, c in stages(config(name, arg)):
            run = build.parse(c)
            objectives = build.objectives(run)
            shapes = jax.eval_shape(init_function(build.models(run, objectives), objectives, 0)[1])
            size = sum(x.size for x in jax.tree.leaves(shapes))
            assert 0 < size < (2e6 if arg else np.inf)  # a published system may be small
    source, encode = build.source(run.data, run.data.train), build.encoder(run, train=True)
    batch = encode(source[0], np.random.default_rng(0))
    assert all(batch[m.name]["valid"].any() for m in run.modalities)
    build.evaluators({**run.evals, **run.final_evals}, Context(run, None, objectives))
    in_bfloat16(dataclasses.replace(run, model=run.model | {"dtype": "bfloat16"}), batch)


def in_bfloat16(run, example):
    """What flows inside of stacks is bfloat16; terms and gradients are fp32 all the same."""
    objectives = build.objectives(run)
    graphs, init = init_function(build.models(run, objectives), objectives, 0)
    shape = lambda x: jax.ShapeDtypeStruct((4, *x.shape), jax.dtypes.canonicalize_dtype(x.dtype))
    batch = jax.tree.map(shape, example)

    def loss(params, batch):
        return evaluate_objectives(graphs, params, objectives, batch, example_keys(0, 0, 4), train=True)

    (total, terms), grads = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), jax.eval_shape(init), batch)
    assert {x.dtype.name for x in jax.tree.leaves((total, terms, grads)) if x.dtype.kind == "f"} == {"float32"}


def test_a_page_says_how_long_each_phase_is():
    phases = [("0_a", ConfigDict(dict(steps=1000, batch_size=64)))]
    assert systems.length(phases) == "1,000 steps of 64"
    phases += [(name, ConfigDict(dict(steps=20, batch_size=8))) for name in ("1_b", "2_c")]
    assert systems.length(phases) == "1,000 steps of 64, then 2 phases of 20 steps of 8"


@of_system
def test_what_a_system_names_exists(name):
    claim = systems.config_of(ROWS[name]).CLAIM
    file, _, function = claim.test.partition("::")
    tests = [n.name for n in ast.parse((ROOT / file).read_text()).body if isinstance(n, ast.FunctionDef)]
    assert function in tests and function.startswith("test_")
    assert (ROOT / "tools" / "experiments" / f"{claim.experiment}.py").exists()


@pytest.mark.parametrize("name", [n for n in NAMES if systems.state(ROWS[n])[0] in ("works", "approximate")])
def test_what_works_has_a_result_with_seeds_and_a_control(name):
    claim = systems.config_of(ROWS[name]).CLAIM
    result = json.loads((RESULTS / f"{claim.experiment}.json").read_text())
    assert ROWS[name]["number"] in result["systems"] and "--smoke" not in result["command"]
    assert result["control"] == claim.control and claim.control in result["conditions"]
    assert len(result["seeds"]) >= 3 and len(result["conditions"]) >= 2 and result["gates"]
    for metrics in result["conditions"].values():
        assert all(len(values) == len(result["seeds"]) and np.isfinite(values).all() for values in metrics.values())
    worst = max((gate["verdict"] for gate in result["gates"]), key=VERDICTS.index)
    assert result["verdict"] == worst


def test_the_pages_are_what_the_tool_writes():
    assert systems.stale() == [], "run python -m tools.systems"


def test_a_changed_or_strange_page_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "PAGES", tmp_path)
    systems.main([])
    assert not systems.stale() and len(list(tmp_path.iterdir())) == len(NAMES) + 1
    (tmp_path / "align.md").write_text("changed")
    (tmp_path / "old.md").write_text("a system that is no more")
    with pytest.raises(SystemExit, match=r"align\.md, old\.md: run python -m tools\.systems"):
        systems.main(["--check"])
    systems.main([])
    assert not systems.stale() and not (tmp_path / "old.md").exists()


def test_states(tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "RESULTS", tmp_path)
    assert systems.state(ROWS["symile"]) == ("not yet", "its experiment has not been run")
    assert (
        systems.state(ROWS["symile"] | {"name": "nobody"})[0] == "not yet"
        and systems.state(systems.rows()[15])[0] == "outside"
    )
    (tmp_path / "symile_xor.json").write_text(json.dumps(dict(systems=[41], verdict="weak")))
    assert systems.state(ROWS["symile"]) == ("approximate", "weak")
    (tmp_path / "steps.json").write_text(json.dumps(dict(systems=[51], verdict="holds")))
    assert systems.state(ROWS["fourm"]) == ("works", "holds")


@pytest.mark.slow
@of_system
def test_the_tiny_size_trains_and_is_evaluated(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_first(systems.config_of(ROWS[name]), "tiny", tmp_path, trained=True)
    c = config(name, "tiny")
    c.steps, c.batch_size, c.optim.warmup, c.checkpoint.every, c.log.every = 3, 16, 1, 3, 1
    c.evals.val.update(dict(every=3, batch_size=16))
    if "phases" in c:
        c.phases = [dict(phase) | dict(steps=3, optim=dict(warmup=1)) for phase in c.phases]
        assert train_phases(c, tmp_path / "run")
    else:
        assert int(train(c, tmp_path / "run").step) == 3
    run = restore(tmp_path / "run" / stages(c)[-1][0])
    context = Context(run.run, run.graphs, run.objectives)
    for _, one in build.evaluators(run.run.final_evals, context).values():
        found = dict(one.run(run.params))
        assert found and all(np.isfinite(float(v)) for v in found.values())
