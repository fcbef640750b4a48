"""Launchers' scripts, run among stand-ins for a cluster's programs: words arrive, and what should starts again."""

import os
import shutil
import subprocess

import pytest
from launching import ENV, GPUS, SLURM, VM, VMS, fake

from tools.launch import __main__ as launch
from tools.launch import slurm, tpu_vm

__all__ = ["fake"]  # a fixture


def run_slurm(fake, code, job=SLURM, state="RUNNING"):
    fake("srun", f"sys.exit({code})")
    fake("squeue", f"print({state!r})")
    fake("scontrol")
    done = subprocess.run(["bash", "-c", slurm.render(job)], capture_output=True, text=True)
    return done.returncode, [call[0] for call in fake.log()], fake.log()


def test_slurm_passes_every_word_on(fake):
    code, called, log = run_slurm(fake, 0)
    assert code == 0 and called == ["srun"]
    *words, env = log[0]
    assert words[3:] == SLURM.command and env == dict(ENV)


@pytest.mark.parametrize("code", [75, 134, 137, 253])
def test_slurm_requeues_what_was_stopped_or_crashed(fake, code):
    returned, called, log = run_slurm(fake, code)
    assert returned == code and called == ["srun", "squeue", "scontrol"]
    assert log[-1][:3] == ["scontrol", "requeue", "77"]


@pytest.mark.parametrize("code", [1, 2])
def test_slurm_does_not_requeue_an_error(fake, code):
    assert run_slurm(fake, code)[:2] == (code, ["srun"])


def test_slurm_requeues_no_cancelled_job_and_not_for_ever(fake, monkeypatch):
    assert run_slurm(fake, 75, state="COMPLETING")[1] == ["srun", "squeue"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert run_slurm(fake, 75)[1][2:] == ["srun", "squeue"]


# -- TPU VMs ----------------------------------------------------------------------------------------------------------

# Reports the states, one a look ("-" is no such resource), then ACTIVE. ssh runs its command here, in a home of its
# own, where the environment's `python` is a fake that ends with the next of the codes.
GCLOUD = """
import pathlib, shutil, subprocess
here = pathlib.Path(os.environ["FAKE"])
home = here / "home"
def pop(name, default):
    file = here / name
    first, *rest = file.read_text().split() if file.exists() and file.read_text().split() else [default]
    file.write_text(" ".join(rest))
    return first
verb = sys.argv[4]
if verb == "list":
    print({"-": ""}.get(s := pop("states", "ACTIVE"), s))
elif verb == "scp":
    home.mkdir(exist_ok=True)
    shutil.copy(sys.argv[-2], home / sys.argv[-1].partition(":")[2])
elif verb == "ssh":
    (command,) = [a.partition("=")[2] for a in sys.argv if a.startswith("--command=")]
    sys.exit(subprocess.run(["bash", "-c", command], env=os.environ | {"HOME": str(home)}).returncode)
"""
PYTHON3 = """
import pathlib, shutil
if sys.argv[1:4] == ["-m", "uv", "venv"]:
    pathlib.Path(".venv/bin").mkdir(parents=True)
    shutil.copy(pathlib.Path(os.environ["FAKE"]) / "trainer" / "python", ".venv/bin/python")
"""
TRAINER = """
import pathlib
file = pathlib.Path(os.environ["FAKE"]) / "codes"
first, *rest = file.read_text().split()
file.write_text(" ".join(rest))
sys.exit(int(first))
"""


def run_tpu_vm(fake, tmp_path, job, states, codes):
    """Exit status, the verbs of gcloud and the trainer's calls in order, and the whole log."""
    fake("gcloud", GCLOUD)
    fake("python3", PYTHON3)
    (tmp_path / "trainer").mkdir()
    fake("python", TRAINER, tmp_path / "trainer")
    (tmp_path / "states").write_text(states)
    (tmp_path / "codes").write_text(codes)
    project = tmp_path / "project"
    project.mkdir()
    (project / "constraints.txt").write_text("")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *command], cwd=project, check=True)
    done = subprocess.run(
        ["bash", "-c", tpu_vm.render(job)], cwd=project, env=os.environ | {"POLL_SECONDS": "0"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    log = fake.log()
    calls = [call[4] if call[0] == "gcloud" else "train" for call in log if call[0] in ("gcloud", "python")]
    return done, [call for call in calls if call != "list"], log


ROUND = ["scp", "ssh", "ssh", "train"]


def test_tpu_vm_waits_trains_and_gives_back(fake, tmp_path):
    done, calls, log = run_tpu_vm(fake, tmp_path, VM, "- ACCEPTED WAITING_FOR_RESOURCES PROVISIONING ACTIVE", "0")
    assert done.returncode == 0, done.stderr
    assert calls == ["create", *ROUND, "delete"]
    assert "run-1: PROVISIONING\nrun-1: ACTIVE\n" in done.stderr
    (create,) = [call for call in log if call[4:5] == ["create"]]
    assert create[5:-1] == [
        "--project=my-project", "--zone=us-east5-b", "run-1", "--async", "--accelerator-type=v5litepod-256",
        "--runtime-version=v2-alpha-tpuv5-lite", "--node-id=run-1", "--spot",
    ]  # fmt: skip
    (train,) = [call for call in log if call[0] == "python"]
    assert train[:-1] == VM.command and train[-1] == dict(ENV)
    assert all("--worker=all" in call and "--batch-size=all" in call for call in log if call[4:5] == ["ssh"])


def test_tpu_vm_takes_the_slices_again_after_preemption(fake, tmp_path):
    states = "- PROVISIONING ACTIVE SUSPENDING SUSPENDED - PROVISIONING ACTIVE"
    done, calls, log = run_tpu_vm(fake, tmp_path, VMS, states, "75 0")
    assert done.returncode == 0, done.stderr
    assert calls == ["create", *ROUND, "delete", "create", *ROUND, "delete"]
    create = [call for call in log if call[4:5] == ["create"]][1]
    assert "--node-count=2" in create and "--node-prefix=run-1" in create


def test_tpu_vm_trains_again_on_slices_that_stayed(fake, tmp_path):
    done, calls, _ = run_tpu_vm(fake, tmp_path, VM, "ACTIVE", "134 75 0")
    assert done.returncode == 0 and calls == [*ROUND * 3, "delete"]


def test_tpu_vm_gives_up_after_max_restarts(fake, tmp_path):
    done, calls, _ = run_tpu_vm(fake, tmp_path, VM, "ACTIVE", "75 75 75 75")
    assert done.returncode == 75 and calls == ROUND * 3
    assert "given up" in done.stderr


def test_tpu_vm_does_not_repeat_an_error(fake, tmp_path):
    done, calls, _ = run_tpu_vm(fake, tmp_path, VM, "ACTIVE", "1")
    assert done.returncode == tpu_vm.FAILED and calls == ROUND
    assert "queued-resources delete run-1" in done.stderr


# -- Submitting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job, program", [(SLURM, "sbatch"), (GPUS, "kubectl")])
def test_submit_hands_the_text_over(job, program, fake, tmp_path):
    fake(program, "open(os.path.join(os.environ['FAKE'], 'stdin'), 'w').write(sys.stdin.read())")
    text = launch.RENDER[job.target](job)
    with pytest.raises(SystemExit, match="0"):
        launch.submit(job.target, text)
    assert (tmp_path / "stdin").read_text() == text


@pytest.mark.parametrize("target, program", [("slurm", "sbatch"), ("jobset", "kubectl"), ("tpu_vm", "gcloud")])
def test_submit_names_the_program_that_is_missing(target, program, tmp_path, monkeypatch):
    (tmp_path / "bash").symlink_to(shutil.which("bash"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=f"no {program} on this machine"):
        launch.submit(target, "")
