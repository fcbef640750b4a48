"""Jobs that the tests of the launchers render, and programs of a cluster that only note what they are told."""

import json
import os
import sys

import pytest

from tools.launch import slurm, tpu_vm
from tools.launch.job import Job

CONFIG = "configs/fourm_mod21.py:XL"
HOSTILE = (
    "--config.data.path=/a b/it's",
    '--config.log.name="$HOME" `id` $(id) \\n',
    "--config.note=*;&|<>!~#{a,b}",
    "--config.empty=",
    "--config.dollars=$$ $(JOB_COMPLETION_INDEX) ${x}",
)
ENV = (("GREETING", 'it\'s $HOME, "ok"'), ("XLA_FLAGS", "--xla_a=1 --xla_b=2"))
COMMON = dict(name="run-1", config=CONFIG, workdir="gs://bucket/run", overrides=HOSTILE, env=ENV, max_restarts=2)
SLURM = Job("slurm", **COMMON, nodes=4, time="12:00:00", partition="gpu", account="lab")
GPUS = Job("jobset", **COMMON, nodes=4, image="repo/image:1", gpu="nvidia-h100-80gb", volume="data:/mnt/data")
TPUS = Job("jobset", **COMMON, image="repo/image:1", tpu="v5p-512", slices=2, spot=True)
VM = Job("tpu_vm", **COMMON, tpu="v5e-256", project="my-project", zone="us-east5-b", spot=True)
VMS = Job("tpu_vm", **COMMON, tpu="v4-64", slices=2, project="my-project", zone="us-central2-b")
PLAIN = Job("slurm", name="plain", config=CONFIG, workdir="runs/shared", gpus_per_node=1)
SCRIPTS = [slurm.render(SLURM), slurm.render(PLAIN), tpu_vm.render(VM), tpu_vm.render(VMS)]

FAKE = """#!{python}
import json, os, sys
with open(os.environ["LOG"], "a") as f:
    env = {{key: os.environ.get(key) for key in {keys}}}
    f.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:], env]) + "\\n")
{body}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """fake(name, body): a program on PATH that notes its argv and runs the Python body; fake.log() has it all."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)

    def make(name, body="", folder=tmp_path / "bin"):
        file = folder / name
        file.write_text(FAKE.format(python=sys.executable, keys=[key for key, _ in ENV], body=body))
        file.chmod(0o755)

    make.log = lambda: [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    return make
