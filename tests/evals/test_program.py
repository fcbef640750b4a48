"""The program: workdirs side by side, what it says before it computes, and a training that is watched."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import jax
import laws
import numpy as np
import pytest
import tiny
from conftest import QUICK

from configs import emoji_tokenizer
from data_pipeline.sources import emoji
from pretrain import build
from pretrain.checkpoint import Checkpointer, steps
from pretrain.evals import __main__ as program
from pretrain.evals import harness, page, watch
from pretrain.step import TrainState


class NoData:
    def get_state(self):
        return {}


@pytest.fixture(scope="module")
def config(token_store):
    c = tiny.emoji_run(token_store)
    c.steps = 3
    c.final_evals = dict(retrieval=dict(pairs=[("render3d", "caption")], splits=("test",)))
    return c


@pytest.fixture(scope="module")
def params(config):
    return laws.Built(config).params


def save(workdir, config, params, *steps):
    """A workdir with checkpoints; each step's parameters differ."""
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(build.to_json(config))
    with Checkpointer(workdir, last=9) as checkpointer:
        for step in steps:
            scaled = jax.tree.map(lambda x, step=step: x * (1 + step), params)
            checkpointer.save(TrainState(np.asarray(step, np.int32), scaled, (), {}), NoData())
    return workdir


@pytest.mark.slow
def test_two_checkpoints_side_by_side(tmp_path, config, params, capsys):
    one, two = (save(tmp_path / name, config, params, step) for name, step in (("one", 1), ("two", 2)))
    found = program.run([one, two], ("retrieval", "diagnostics"), out=tmp_path / "out")
    said = capsys.readouterr().out
    assert said.index("no pictures of examples: tokenizer 'rgb': none is no workdir") < said.index("evaluating")
    written = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert [(c["workdir"], c["step"]) for c in written["checkpoints"]] == [(str(one), 1), (str(two), 2)]
    row = written["checkpoints"][1]["scores"]["retrieval/render3d→caption/R@1"]
    assert row["chance"] == pytest.approx(1 / 16) and 0 <= row["untrained"] <= 1
    first, second = (c["scores"]["diagnostics/render3d~caption/alignment"]["value"] for c in written["checkpoints"])
    assert first != second
    text, html = page.as_text(found), (tmp_path / "out" / "eval.html").read_text()
    (line,) = (t for t in text.splitlines() if t.startswith("retrieval/render3d→caption/R@5 "))
    assert [line.split()[i] for i in (2, 5)] == ["0.312", "0.312"], "chance of each"
    assert html.count("two @ 2") == 2 and "<h2>Retrieval</h2>" in html and "effective rank" in html


def test_other_data(tmp_path, config, params, token_store, capsys):
    """--path and --fields put other examples under a network: here the Noto pictures in the place of 3D ones."""
    workdir = save(tmp_path / "run", config, params, 3)
    shutil.copytree(token_store, tmp_path / "tokens")
    given = harness.open_run(workdir, data=dict(path=str(tmp_path / "tokens"), fields={"render3d": "noto"}))
    assert given[1].run.data.path == str(tmp_path / "tokens")
    ours, theirs = (next(c.batches("test", 16)) for c in (harness.open_run(workdir)[1], given[1]))
    source = build.source(config_data(config), "test")
    np.testing.assert_array_equal(theirs["render3d"]["ids"][0], source[0]["noto"].ravel())
    np.testing.assert_array_equal(ours["render3d"]["ids"][0], source[0]["render3d"].ravel())
    with pytest.raises(ValueError, match="--fields: no modality 'depth'; the run has render3d, caption"):
        harness.open_run(workdir, data=dict(fields={"depth": "noto"}))


def config_data(config):
    return build.parse(config).data


def test_said_before_any_compute(tmp_path, config, params, monkeypatch):
    workdir = save(tmp_path / "run", config, params, 3)
    monkeypatch.setattr(harness, "evaluate", lambda *_: pytest.fail("computed"))
    for kwargs, message in (
        (dict(data=dict(source="tokens")), "config.data.path='': the source `tokens` reads a token store"),
        (dict(data=dict(path=str(tmp_path / "none"))), "no token store at .*none"),
        (dict(step=2), r"step=2: .* has checkpoints \[3\]"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            program.run([workdir], **kwargs)
    monkeypatch.setattr(emoji.Source, "__len__", lambda self: 0)
    with pytest.raises(ValueError, match=r"split=\('test',\) of .* is empty: name a split that holds examples"):
        program.run([workdir], data=dict(source="emoji"))
    with pytest.raises(FileNotFoundError, match="is no workdir"):
        program.run([workdir, tmp_path / "missing"])


def test_without_tokenizers_nothing_is_generated(tmp_path, config, params):
    _, context = harness.open_run(save(tmp_path / "run", config, params, 3))
    _, left_out = harness.make_tasks(context, ("all",))
    assert "tokenizer 'rgb': none is no workdir: bring back the one" in left_out["generation"]
    with pytest.raises(ValueError, match="--tasks=generation: generation: tokenizer 'rgb': none is no workdir"):
        harness.make_tasks(context, ("generation",))


def test_a_training_is_watched(tmp_path, config, params, monkeypatch, capsys):
    """Every checkpoint is scored once, one that is removed while it is read is passed over, and the end is seen."""
    workdir, restore = save(tmp_path / "run", config, params, 1), watch.restore
    ready = save(tmp_path / "ready", config, params, 2, 3) / "checkpoints"

    def racing(where, step):
        if step == 2:
            shutil.rmtree(workdir / "checkpoints" / "2")
        return restore(where, step)

    monkeypatch.setattr(watch, "restore", racing)

    def train():
        for step in (2, 3):
            time.sleep(0.3)
            (ready / str(step)).rename(workdir / "checkpoints" / str(step))  # at once, as Orbax ends a save

    trainer = threading.Thread(target=train)
    trainer.start()
    lines = watch.watch(workdir, poll=0.05)
    trainer.join()
    assert "step 2: removed before it could be read" in capsys.readouterr().out
    assert [line["step"] for line in lines] == [1, 3]
    assert {"retrieval/render3d→caption/R@1", "retrieval/render3d↔caption/candidates"} <= set(lines[0])
    assert [json.loads(t) for t in (workdir / "evals.jsonl").read_text().splitlines()] == lines
    assert watch.watch(workdir, poll=0.05) == [], "what is written is not scored again"


def test_a_broken_checkpoint_ends_the_watch(tmp_path, config, params, monkeypatch):
    workdir = save(tmp_path / "run", config, params, 1)
    monkeypatch.setattr(watch, "restore", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        watch.watch(workdir, poll=0.01)


def test_a_watch_is_checked_before_there_is_a_checkpoint(tmp_path, config):
    workdir = save(tmp_path / "run", config, None)
    with pytest.raises(ValueError, match="--tasks=knm: no task 'knm'"):
        watch.watch(workdir, ("knm",))
    with pytest.raises(FileNotFoundError, match="is no workdir"):
        watch.watch(tmp_path / "none")


def test_checkpoints_come_and_go_while_they_are_listed(tmp_path, config, params):
    """What a training removes file by file never breaks a look at what is there."""
    workdir, stop = save(tmp_path / "run", config, params, 1), threading.Event()

    def churn():
        for step in itertools.count(2):
            if stop.is_set():
                return
            shutil.copytree(workdir / "checkpoints" / "1", tmp_path / "next")
            (tmp_path / "next").rename(workdir / "checkpoints" / str(step))
            shutil.rmtree(workdir / "checkpoints" / str(step))

    trainer = threading.Thread(target=churn)
    trainer.start()
    seen, end = set(), time.monotonic() + 4
    try:
        while time.monotonic() < end:
            seen.update(steps(workdir))
    finally:
        stop.set()
        trainer.join()
    assert 1 in seen and len(seen) > 20


@pytest.mark.slow
def test_a_training_of_another_program_is_watched(tmp_path, token_store):
    """Live: the newest checkpoint alone is kept, and there is a new one faster than one is scored."""
    (tmp_path / "config.py").write_text(
        "import tiny\n"
        "def get_config(arg=''):\n"
        f"    c = tiny.emoji_run({str(token_store)!r})\n"
        "    c.steps, c.batch_size, c.checkpoint.every, c.checkpoint.keep = 240, 8, 10, 1\n"
        "    c.log.every = 100\n"
        "    c.final_evals = dict(retrieval=dict(pairs=[('render3d', 'caption')], splits=('test',)))\n"
        "    return c\n"
    )
    env = os.environ | {"PYTHONPATH": f"{laws.ROOT}{os.pathsep}{laws.ROOT / 'tests'}", "XLA_FLAGS": QUICK}
    run, command = tmp_path / "run", [sys.executable, "-m"]
    trainer = subprocess.Popen(
        [*command, "pretrain", f"--config={tmp_path / 'config.py'}", f"--workdir={run}"], cwd=laws.ROOT, env=env
    )
    try:
        while not (run / "config.json").exists():
            assert trainer.poll() is None
            time.sleep(0.1)
        watching = [*command, "pretrain.evals", f"--checkpoint={run}", "--watch", "--poll=0.1", "--tasks=retrieval"]
        said = subprocess.run(watching, cwd=laws.ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert said.returncode == 0, said.stderr[-3000:]
        assert trainer.wait(timeout=60) == 0
    finally:
        trainer.kill()
    lines = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    scored = [line["step"] for line in lines]
    assert scored == sorted(set(scored)) and scored[-1] == 240 and len(scored) > 1 and not any(s % 10 for s in scored)
    assert all(f"step {s}: " in said.stdout for s in scored)
    assert len({line["retrieval/render3d→caption/MRR"] for line in lines}) > 1


def test_networks_that_embed_nothing_are_refused(tmp_path, config, params, monkeypatch):
    workdir = save(tmp_path / "run", config, params, 3)
    held = harness.restore(workdir)
    run = dataclasses.replace(held.run, model=emoji_tokenizer.get_config().model.to_dict())
    monkeypatch.setattr(harness, "restore", lambda *_: dataclasses.replace(held, run=run))
    with pytest.raises(ValueError, match=r"trained 'tokenizers.autoencoder', which embeds nothing"):
        harness.open_run(workdir)
