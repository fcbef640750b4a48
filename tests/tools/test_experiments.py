"""The experiments run, and the table of what came out names them all."""

from pathlib import Path

import numpy as np
import pytest

from tools.experiments import gap, symile_xor

FOLDER = Path(symile_xor.__file__).parent


def test_the_table_names_every_script():
    scripts = {p.stem for p in FOLDER.glob("*.py")} - {"__init__", "common"}
    table = (FOLDER / "README.md").read_text()
    assert {"symile_xor", "gap", "matryoshka", "joint"} <= scripts
    assert not [s for s in scripts if f"tools.experiments.{s}" not in table]


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
