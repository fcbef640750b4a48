"""Flags set any key that there is, and what is mistyped is named with its remedy, in one sentence."""

import os
import subprocess
import sys

import pytest
from absl import flags
from vector_run import config, write_split

from pretrain import build, config_flag
from pretrain.storage import Spool, locate

CONFIG = """from ml_collections import ConfigDict
def get_config(arg="x"):
    return ConfigDict(dict(steps=4, batch_size=8, objectives={}, model={}, modalities=[], data=dict(source="emoji")))
"""


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """parsed(*flags) → the config that they give."""
    (tmp_path / "c.py").write_text(CONFIG)

    def run(*given, file=None):
        values, argv = flags.FlagValues(), ["pretrain", f"--config={file or tmp_path / 'c.py'}", *given]
        monkeypatch.setattr(sys, "argv", argv)
        holder = config_flag.define("", values)
        values(argv)
        return holder.value

    return run


def test_keys_that_the_config_does_not_list_are_set(parsed):
    held = parsed(
        "--config.data.workers=2", "--config.optim.lr=1e-3", "--config.log.tensorboard=false", "--config.ema=0.9",
        "--config.evals.val.split=dev", "--config.steps=7", "--config.mesh=fsdp", "--config.data.ratio=(0.5,2.0)",
    )  # fmt: skip
    assert held.data.to_dict() == dict(source="emoji", workers=2, ratio=(0.5, 2.0)) and held.steps == 7
    assert held.optim.lr == 1e-3 and held.log.tensorboard is False and held.ema == 0.9 and held.mesh == "fsdp"
    assert held.evals.val.split == "dev"


def test_a_name_of_digits_is_given_in_quotes(parsed):
    """Of a key that the config does not list, flags do not know that it takes a string."""
    assert parsed('--config.log.wandb="2024"').log.wandb == "2024" and parsed("--config.load=").load == ""
    with pytest.raises(TypeError, match=r"""config\.mesh=2024: expected str, got int; .* quotes, '"2024"'$"""):
        build.parse(parsed("--config.mesh=2024"))


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.data.wrokers=2", r"config\.data\.wrokers=2: unknown key; did you mean 'workers'\?"),
        ("--config.optm.lr=1", r"config\.optm=.*: unknown key; did you mean 'optim'\?"),
        ("--config.optim.lr=fast", r"config\.optim\.lr='fast': expected float, got str"),
        ("--config.log.every=1.5", r"config\.log\.every=1\.5: expected int, got float"),
    ],
)
def test_mistyped_keys_and_values_are_named(parsed, flag, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build.parse(parsed(flag))


def test_what_has_no_keys_and_what_is_no_config(parsed, tmp_path):
    for flag, message in (
        ("--config.steps.more=1", "config.steps is 4, which has no key 'more'"),
        ("--config.data.source.x=1", "config.data.source is 'emoji', which has no key 'x'"),
    ):
        with pytest.raises(flags.IllegalFlagValueError, match=message):
            parsed(flag)
    with pytest.raises(flags.IllegalFlagValueError, match="no such file; give FILE"):
        parsed(file="nowhere.py:arg")
    for body, message in (
        ("return get_config()", "calls itself without end"),
        ("return {}", "it must give a ConfigDict"),
    ):
        (tmp_path / "bad.py").write_text(f"def get_config():\n    {body}\n")
        with pytest.raises(flags.IllegalFlagValueError, match=message):
            parsed(file=tmp_path / "bad.py")


def test_home_is_where_tildes_lead(parsed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parsed(file="~/c.py:y").steps == 4
    write_split(tmp_path / "data", "train", 8)
    run = build.parse(config("~/data", load="~/base", data__options={}, evals__val__path="~/pairs"))
    assert (run.data.path, run.load[0].workdir, run.evals["val"]["path"]) == tuple(
        f"{tmp_path}/{name}" for name in ("data", "base", "pairs")
    )
    assert len(build.source(run.data, "train")) == 8
    assert str(locate("~/run")) == str(tmp_path / "run") and Spool("~/run").folder == tmp_path / "run"
    assert build.parse(config("a~/b", evals={})).data.path == "a~/b"


@pytest.mark.slow
def test_the_program_says_it_in_one_sentence(tmp_path):
    """Through a shell: no traceback of the flags' own."""
    (tmp_path / "c.py").write_text(CONFIG)
    for flag, message in (
        ("--config.steps.x=2", "config.steps is 4, which has no key 'x'"),
        ("--config.steps=many", "steps"),
    ):
        command = [sys.executable, "-m", "pretrain", f"--config={tmp_path}/c.py", f"--workdir={tmp_path}/run", flag]
        out = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        assert out.returncode and message in out.stderr and "Traceback" not in out.stderr
