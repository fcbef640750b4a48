"""Runs that take parts of others and train a part of themselves: what stays keeps its bits and is not saved."""

import shutil

import jax
import numpy as np
import pytest
from vector_run import config, write_split

from pretrain.checkpoint import load_params, read_info
from pretrain.parameters import path_str
from pretrain.restore import digest, restore
from pretrain.train import train


def tower(name, reads, **more):
    return dict(name=name, modalities=[reads], dim=8, heads=2, depth=2, **more)


def flat(tree):
    return {path_str(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def of(tree, *parts):
    return {p: x for p, x in flat(tree).items() if p.split("/")[1] in parts}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        write_split(folder, split, 16)
    return folder


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    """A workdir of towers `a`, `b` and `c`."""
    workdir = tmp_path_factory.mktemp("base") / "run"
    train(config(data, model__towers=[tower(n, n) for n in "abc"], evals={}, steps=2, seed=5), workdir)
    return workdir


def make(data, base, towers, **changes):
    return config(data, model__towers=towers, evals={}, optim__weight_decay=0.5, ema=0.5, **changes)


def resumes(c, folder):
    """The state of a run, the same bits if it is stopped and continued."""
    whole = train(c, folder / "whole")
    shutil.copytree(folder / "whole", folder / "again")
    shutil.rmtree(folder / "again" / "checkpoints" / "4")
    again = train(c, folder / "again")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(again))
    return whole


@pytest.mark.slow
def test_a_frozen_tower_of_another_run_stays_and_is_not_saved(data, base, tmp_path, capsys):
    towers = [tower("eyes", "a", frozen=True), tower("b", "b"), tower("c", "c")]
    load = [dict(workdir=str(base), parts=["a", "c"], into=["eyes", "c"])]
    state = resumes(make(data, base, towers, load=load), tmp_path)
    frozen = ("eyes_embed", "eyes_encoder", "eyes_pool")
    for kept in (state.params, load_params(tmp_path / "whole")):
        assert not of(kept, *frozen) and of(kept, "eyes_project", "b_encoder", "c_encoder")
    assert not any("eyes_encoder" in p for p in flat(state.opt_state))
    before, after = (flat(restore(workdir).params) for workdir in (base, tmp_path / "whole"))
    learned = [p for p in after if not p.startswith(tuple(f"model/{name}/" for name in frozen))]
    for path in after.keys() - set(learned):
        np.testing.assert_array_equal(after[path], before[path.replace("eyes_", "a_")], err_msg=path)
    assert all((after[p] != before[p.replace("eyes_", "a_")]).any() for p in learned if "c_encoder" in p)
    (told,) = read_info(tmp_path / "whole")["base"]
    assert (told["step"], told["digest"]) == (2, digest(restore(base).params))
    said = capsys.readouterr().out
    assert f"starting from config.load: '{base}'" in said and "parameters that learn beside a base" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "rules, learns",
    [
        ([dict(parts=["a"], how="dora", rank=2, alpha=2.0), dict(parts=["c"], how="last", k=1)], ("a_", "c_encoder/")),
        ([dict(parts=["a"], how="nothing", store="bfloat16"), dict(parts=["b", "c"])], ("b_", "c_")),
    ],
    ids=["dora", "bfloat16"],
)
def test_a_run_that_trains_a_part_resumes(data, base, tmp_path, rules, learns):
    state = resumes(make(data, base, [tower(n, n) for n in "abc"], load=str(base), train=rules), tmp_path)
    paths = [p for p in flat(state.params) if p.startswith("model/")]
    assert paths and all(p.removeprefix("model/").startswith(learns) for p in paths)
    before, after = (flat(restore(workdir).params) for workdir in (base, tmp_path / "whole"))
    for path in after:
        if not path.startswith("model/") or any(p.startswith(path) for p in paths):
            continue
        stored = before[path].astype(rules[0].get("store", "float32")).astype("float32")
        np.testing.assert_array_equal(after[path], stored, err_msg=path)


@pytest.mark.slow
def test_what_stays_may_be_fresh_where_a_rule_says_so(data, tmp_path):
    """The base is nowhere but in the seed, and is the same when the run goes on or is opened."""
    rules = [dict(parts=["a"], how="nothing", fresh=True), dict()]
    state = resumes(make(data, None, [tower(n, n) for n in "abc"], train=rules, seed=3), tmp_path)
    assert not of(state.params, "a_embed", "a_encoder") and of(state.params, "b_encoder")
    held, started = restore(tmp_path / "whole"), jax.jit(restore(tmp_path / "whole").init)()
    parts = ("a_embed", "a_encoder", "a_project")
    jax.tree.map(np.testing.assert_array_equal, of(held.params, *parts), of(started, *parts))


@pytest.mark.slow
def test_a_base_that_changed_or_is_gone_is_named(data, base, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    c = make(data, base, [tower(n, n) for n in "abc"], load=str(copy), train=[dict(parts=["b"])])
    train(c, tmp_path / "run")
    shutil.rmtree(copy)
    train(config(data, model__towers=[tower(n, n) for n in "abc"], evals={}, steps=2, seed=6), copy)
    with pytest.raises(ValueError, match=r"config.load: '.*copy': step 2 there is not what this run was trained besid"):
        train(c, tmp_path / "run")
    shutil.rmtree(copy)
    with pytest.raises(FileNotFoundError, match=r"config.load: '.*copy': the rest of this run was read there: "):
        restore(tmp_path / "run")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(load=""), "config.load: nothing there gives model/a_embed/.*, which this run does not train"),
        (dict(load=[dict(workdir="BASE", parts=["b"])]), "nothing there gives model/a_embed/.*frozen=False of its pa"),
        (dict(train=[dict(parts=["a_encoder"])]), "config.train: .*parts=.*frozen=True stays as it is"),
        (dict(load=[dict(path="x")]), r"config.load\[0\].path='x': unknown key; .*workdir, parts, into"),
        (dict(load=[dict(workdir="BASE", parts=["x"])]), "config.load: '.*': parts: it has no part or tower 'x', but"),
        (dict(load="nowhere"), "config.load: 'nowhere': .*no config.json"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_named_before_anything_is_written(data, base, tmp_path, changes, message):
    towers = [tower("a", "a", frozen=True), tower("b", "b"), tower("c", "c")]
    found = {"load": str(base)} | changes
    if isinstance(found["load"], list):
        found["load"] = [{k: str(base) if v == "BASE" else v for k, v in e.items()} for e in found["load"]]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(make(data, base, towers, **found), tmp_path / "run")
    assert not (tmp_path / "run").exists()
