"""What is true of every objective: its coefficient, and how its terms become a loss."""

import dataclasses
import importlib
import pkgutil
import types

import numpy as np
import pytest

from pretrain import objectives
from pretrain.objectives.base import BATCH, EXAMPLE, weighted_sum


def made() -> dict:
    """{file: its objective}."""
    names = [m.name for m in pkgutil.iter_modules(objectives.__path__)]
    found = {n: getattr(importlib.import_module(f"{objectives.__name__}.{n}"), "Objective", None) for n in names}
    return {n: o for n, o in found.items() if dataclasses.is_dataclass(o)}


def test_a_loss_counts_once_unless_said_otherwise():
    """By the coefficient's default; only a regulariser, which stands beside a loss, counts less."""
    coefs = {n: f.default for n, o in made().items() for f in dataclasses.fields(o) if f.name == "coef"}
    assert coefs.pop("code_entropy") == 0.1 and len(coefs) > 8
    assert coefs == dict.fromkeys(coefs, 1.0)


@pytest.mark.parametrize("weight", [0.25, 1.0, 8.0])
def test_the_loss_is_the_weighted_sum_of_means(weight):
    one = types.SimpleNamespace(coef=0.5, loss_weight={"a": 0.75, "b": 0.25, "metric": 0.0}.get)
    totals = {"a": np.float32(3), "b": np.float32(0), "metric": np.float32(7), "statistics": None}
    weights = {"a": np.float32(weight), "b": np.float32(0), "metric": np.float32(2)}
    np.testing.assert_allclose(weighted_sum(one, totals, weights), 0.5 * 0.75 * 3 / weight, rtol=1e-6)


def test_an_objective_says_whether_it_compares_examples():
    batch = {"boosting", "code_entropy", "contrastive", "matryoshka", "mutual", "pair_hinge"}
    batch |= {"sequence_contrast", "sigmoid", "symile", "triplet", "uniformity"}
    batch |= {"global_local", "late_interaction", "map_contrast", "prototypes", "sampled_matching", "sparsity"}
    assert {n for n, o in made().items() if o.scope == BATCH} == batch
    assert {o.scope for n, o in made().items() if n not in batch} == {EXAMPLE}
