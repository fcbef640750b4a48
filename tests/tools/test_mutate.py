"""Mutants: which tokens are changed, which are not, and what is said of a module's tests."""

import ast
import json

import pytest

from tools import mutate

SOURCE = '''"""No -1 of a docstring."""
WIDTH: tuple[int, 2] = -1.5  # é: not a < b


def f(x, é, scale=True) -> int | None:
    if x < é or not (x  # a + b
        + é):
        raise ValueError(f"{x + 1}: must be above 0")
    x //= min(é, 2)
    return x is not None, jnp.sum(x)
'''
LINES = [
    ("WIDTH: tuple[int, 2] = -1.5", "WIDTH: tuple[int, 2] = -0.5"),
    ("WIDTH: tuple[int, 2] = -1.5", "WIDTH: tuple[int, 2] = -2.5"),
    ("scale=True", "scale=False"),
    ("x < é", "x <= é"),
    ("é or not (x", "é and not (x"),
    ("or not (x", "or (x"),
    ("        + é", "        - é"),
    ("x //= min", "x *= min"),
    ("min(é", "max(é"),
    ("(é, 2)", "(é, 1)"),
    ("(é, 2)", "(é, 3)"),
    ("x is not None", "x is None"),
    ("jnp.sum(x)", "jnp.mean(x)"),
]


def test_one_token_changes_and_none_in_what_is_only_said():
    raw = SOURCE.encode()
    made = [(raw[:low] + text.encode() + raw[high:]).decode() for low, high, text in mutate.mutants(SOURCE)]
    assert sorted(made) == sorted(SOURCE.replace(*line) for line in LINES)
    row = mutate.row("a.py", SOURCE, mutate.mutants(SOURCE)[2])
    before = "def f(x, é, scale=True) -> int | None:"
    assert row == {"file": "a.py", "line": 5, "before": before, "after": before.replace("True", "False")}


def test_a_seed_draws_the_same_and_never_what_is_known():
    drawn = mutate.draw("a.py", SOURCE, set())
    assert drawn == mutate.draw("a.py", SOURCE, set()) and len(set(drawn)) == 8
    rows = [mutate.row("a.py", SOURCE, m) for m in drawn]
    known = {tuple(rows[0][k] for k in ("file", "before", "after"))}
    again = mutate.draw("a.py", SOURCE, known)
    assert again[:-1] == drawn[1:] and again[-1] not in drawn
    assert mutate.draw("b.py", SOURCE, set()) != drawn


def test_the_core_has_tests_and_what_is_known_is_still_there():
    for path in (p for c in mutate.CORE for p in (sorted((mutate.ROOT / c).rglob("*.py")) or [mutate.ROOT / c])):
        source, name = path.read_text(), str(path.relative_to(mutate.ROOT))
        found = mutate.mutants(source)
        assert not found or mutate.tests_of(name), f"{name}: add its tests to TESTS"
        assert all((mutate.ROOT / t).exists() for t in mutate.tests_of(name))
        low, high, text = found[-1] if found else (0, 0, "")
        ast.parse(source.encode()[:low] + text.encode() + source.encode()[high:])
    for known in json.loads(mutate.KNOWN.read_text()):
        assert set(known) == {"file", "before", "after", "why"}
        source = (mutate.ROOT / known["file"]).read_text()
        texts = [mutate.row(known["file"], source, m) for m in mutate.mutants(source)]
        assert any(t["before"] == known["before"] and t["after"] == known["after"] for t in texts), known


@pytest.mark.parametrize(
    "body, outcome", [("assert True", "passed"), ("assert False", "failed"), ("import time; time.sleep(60)", "hung")]
)
def test_outcomes(body, outcome, tmp_path):
    (tmp_path / "test_it.py").write_text(f"def test():\n    {body}\n")
    found, seconds = mutate.run_tests(tmp_path, ["test_it.py"], 3 if outcome == "hung" else 30)
    assert found == outcome and seconds < 30


def test_a_module_is_mutated_in_a_copy_that_ends_as_it_was(tmp_path, monkeypatch):
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    for root in (tree, copy):
        for folder, file, text in (
            ("pretrain", "one.py", "def f(x):\n    return x + 1\n"),
            ("tests", "test_one.py", "from pretrain.one import f\n\n\ndef test():\n    assert f(1) in (2, 3)\n"),
        ):
            (root / folder).mkdir(parents=True)
            (root / folder / file).write_text(text)
    monkeypatch.setattr(mutate, "ROOT", tree)
    rows = list(mutate.try_module(copy, "pretrain/one.py", set(), {}))
    assert {r["after"]: r["outcome"] for r in rows} == {
        "return x - 1": "caught", "return x + 0": "caught", "return x + 2": "survived",
    }  # fmt: skip
    assert all((r / "pretrain/one.py").read_text() == "def f(x):\n    return x + 1\n" for r in (tree, copy))
    (copy / "tests/test_one.py").write_text("def test():\n    assert False\n")
    with pytest.raises(ValueError, match=r"pretrain/one\.py: its tests fail without a mutant"):
        list(mutate.try_module(copy, "pretrain/one.py", set(), {}))
