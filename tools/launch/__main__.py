"""python -m tools.launch slurm|jobset|tpu_vm --config=configs/x.py[:arg] --workdir=DIR [--config.a.b=value …] …

Prints what starts the run on a cluster: a SLURM job script, a Kubernetes JobSet, or a bash script for TPU VMs. --out
writes it instead, --submit hands it to sbatch, kubectl or bash. What is preempted or crashes is started again and goes
on from its checkpoint, at most --max_restarts times; an error of the program or its config ends the run.

A workdir may be gs://BUCKET/RUN. Arrays go there through TensorStore, which needs nothing more, and everything else
through etils.epath, which needs `etils[epath-gcs]`: have it in the image, or in the environment on SLURM; on TPU VMs
the script installs it. The hosts must be allowed to use the bucket (Google's application default credentials).
Other storage, S3 among it, has to be mounted as a file system, since Orbax writes arrays to files and gs:// only.
"""

import argparse
import shutil
import subprocess
import sys

from pretrain.storage import write
from tools.launch import jobset, slurm, tpu_vm
from tools.launch.job import TARGETS, Job

RENDER = {"slurm": slurm.render, "jobset": jobset.render, "tpu_vm": tpu_vm.render}


def parse(argv: list[str]) -> tuple[Job, argparse.Namespace]:
    """Command line → job, and what to do with it."""
    overrides = tuple(arg for arg in argv if arg.startswith("--config."))
    parser = argparse.ArgumentParser(
        prog="python -m tools.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    targets = parser.add_subparsers(dest="target", required=True, metavar="|".join(TARGETS))
    slurm_, jobset_, tpu_vm_ = (targets.add_parser(name, allow_abbrev=False) for name in TARGETS)
    for p in (slurm_, jobset_, tpu_vm_):
        p.add_argument("--config", required=True, help="configs/FILE.py or configs/FILE.py:argument")
        p.add_argument("--workdir", required=True, help="where checkpoints go; the same again resumes")
        p.add_argument("--name", default="tokenloom", help="of the job; a DNS label")
        p.add_argument(
            "--env", action="append", type=_variable, default=[], metavar="NAME=VALUE", help="may be repeated"
        )
        p.add_argument("--max_restarts", type=int, default=Job.max_restarts)
        p.add_argument("--out", help="a file to write instead of printing")
        p.add_argument("--submit", action="store_true", help="hand it to sbatch, kubectl apply or bash")
    for p in (slurm_, jobset_):
        p.add_argument("--nodes", type=int, default=Job.nodes, help="machines with GPUs")
        p.add_argument("--gpus_per_node", type=int, default=Job.gpus_per_node)
    for p in (jobset_, tpu_vm_):
        p.add_argument("--tpu", default="", help="a TPU slice: v5p-512, v5e-256, v6e-64")
        p.add_argument("--slices", type=int, default=Job.slices, help="how many of them")
        p.add_argument("--spot", action="store_true", help="machines that may be taken away")
    slurm_.add_argument("--partition", default="")
    slurm_.add_argument("--account", default="")
    slurm_.add_argument("--time", default="", help="the time limit; what it cuts off is requeued")
    jobset_.add_argument("--image", default="", help="a container image; its working directory holds the project")
    jobset_.add_argument("--volume", default="", help="CLAIM:/PATH, a persistent volume claim to mount on every host")
    jobset_.add_argument("--gpu", default="", help="GKE's name of the accelerator: nvidia-h100-80gb")
    tpu_vm_.add_argument("--project", default="")
    tpu_vm_.add_argument("--zone", default="")
    tpu_vm_.add_argument("--wait_hours", type=int, default=Job.wait_hours, help="for the slices to be given")
    args = parser.parse_args([arg for arg in argv if arg not in overrides])
    fields = {k: v for k, v in vars(args).items() if k not in ("out", "submit")}
    try:
        return Job(**fields | dict(overrides=overrides, env=tuple(args.env))), args
    except ValueError as e:
        parser.error(str(e))


def submit(target: str, text: str):
    """Hands a rendered job to the program that runs it."""
    command = {"slurm": ["sbatch"], "jobset": ["kubectl", "apply", "-f", "-"], "tpu_vm": ["bash", "-c", text]}[target]
    needed = {"slurm": ["sbatch"], "jobset": ["kubectl"], "tpu_vm": ["bash", "gcloud", "git"]}[target]
    for program in needed:
        if shutil.which(program) is None:
            sys.exit(f"--submit: no {program} on this machine; render with --out and submit where it is")
    # The script for TPU VMs is no standard input: its ssh would read it.
    sys.exit(subprocess.run(command, text=True, input=None if target == "tpu_vm" else text).returncode)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main(argv: list[str] | None = None):
    job, args = parse(sys.argv[1:] if argv is None else argv)
    text = RENDER[job.target](job)
    if args.out:
        write(args.out, text)
    elif not args.submit:
        print(text, end="")
    if args.submit:
        submit(job.target, text)


if __name__ == "__main__":
    main()
