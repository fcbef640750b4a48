"""What is launched: one description for every target."""

import dataclasses
import re
from pathlib import Path

from tools.launch.tpu import Slice, parse

TARGETS = ("slurm", "jobset", "tpu_vm")
SAVE_SECONDS = 300  # between the signal that stops a run and its end: enough to save a checkpoint
# Exit statuses of `python -m pretrain`: 0 done; 75 stopped by a signal and saved, the same command continues; 1 an
# exception and 2 a wrong flag, which would only happen again. Anything else is a crash or a lost host (JAX aborts with
# 134 when another process has died): worth another try.
FINAL = (1, 2)
BUCKET = "gs://"  # the one object storage that Orbax writes arrays to (0.12; it takes s3:// for a file)
NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of the trainer on a cluster. ValueError names the key, its value and what to do."""

    target: str
    name: str
    config: str
    workdir: str
    overrides: tuple[str, ...] = ()  # --config.key=value
    env: tuple[tuple[str, str], ...] = ()
    max_restarts: int = 20
    # GPUs: whole nodes (slurm, jobset)
    nodes: int = 1
    gpus_per_node: int = 8
    gpu: str = ""  # jobset: GKE's name of the accelerator, nvidia-h100-80gb
    # TPUs (jobset, tpu_vm)
    tpu: str = ""  # v5p-512; empty: GPUs
    slices: int = 1
    spot: bool = False
    # slurm
    partition: str = ""
    account: str = ""
    time: str = ""
    # jobset
    image: str = ""
    volume: str = ""  # CLAIM:/PATH, a persistent volume claim that all hosts mount there
    # tpu_vm
    project: str = ""
    zone: str = ""
    wait_hours: int = 24  # for the slices to be given

    def __post_init__(self):
        if self.target not in TARGETS:
            raise ValueError(f"target={self.target!r}: must be one of {', '.join(TARGETS)}")
        for key in ("nodes", "gpus_per_node", "slices", "wait_hours"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: must be at least 1")
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts={self.max_restarts}: must be at least 0")
        # Kubernetes makes a service of it and Google Cloud a machine: both want a letter first.
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", self.name) or len(self.name) > 40:
            raise ValueError(
                f"name={self.name!r}: must be a DNS label: up to 40 of a-z, 0-9 and -, a letter first, no - at its end"
            )
        self._check_command()
        self._check_workdir()
        getattr(self, f"_check_{self.target}")()

    @property
    def slice(self) -> Slice:
        return parse(self.tpu)

    @property
    def mount(self) -> str:
        """Where `volume` is."""
        return self.volume.partition(":")[2]

    @property
    def command(self) -> list[str]:
        """The trainer's argv, the same on every host and after every restart."""
        return ["python", "-m", "pretrain", f"--config={self.config}", f"--workdir={self.workdir}", *self.overrides]

    def _check_command(self):
        file = self.config.split(":")[0]
        if not Path(file).is_file():
            raise ValueError(f"config={self.config!r}: no file {file}; launch from the project's root")
        for override in self.overrides:
            if not re.match(r"--config\.[\w.]+=", override):
                raise ValueError(f"override {override!r}: must be --config.key=value")
        for key, value in self.env:
            if not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
                raise ValueError(f"env={key + '=' + value!r}: must be NAME=VALUE")
        for text in (self.config, self.workdir, *self.overrides, *(value for _, value in self.env)):
            if "\n" in text or "\0" in text:
                raise ValueError(f"{text!r}: a line break cannot be passed on; put it into the config")

    def _check_workdir(self):
        workdir = Path(self.workdir)
        if self.workdir.startswith(BUCKET):
            return
        if "://" in self.workdir:
            raise ValueError(
                f"workdir={self.workdir!r}: Orbax cannot write there; give gs://BUCKET/RUN, or mount the storage as a "
                "file system on every host"
            )
        if self.target == "slurm":
            shared, remedy = (
                not any(workdir.is_relative_to(x) for x in NODE_LOCAL),
                "a folder of the shared file system",
            )
        elif self.target == "jobset":
            shared, remedy = self.mount and workdir.is_relative_to(self.mount), "set volume and give a folder in it"
        else:
            shared, remedy = False, "Google Cloud has buckets for it"
        if not shared:
            raise ValueError(
                f"workdir={self.workdir!r}: a host's own disk, which no other host sees and a restart loses; give "
                f"gs://BUCKET/RUN ({remedy})"
            )

    def _check_slurm(self):
        for key in ("partition", "account", "time"):
            if not re.fullmatch(r"[\w.,:@/+-]*", getattr(self, key)):
                raise ValueError(f"{key}={getattr(self, key)!r}: must be one word of an #SBATCH line")

    def _check_jobset(self):
        if self.volume and not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?:/[^:]+", self.volume):
            raise ValueError(
                f"volume={self.volume!r}: must be CLAIM:/PATH, a persistent volume claim and where to mount it"
            )
        if not self.image:
            raise ValueError("image='': must be a container image with the project installed in its working directory")
        if self.tpu and self.slice and (self.gpu or self.nodes > 1):
            raise ValueError(
                f"tpu={self.tpu!r}: with gpu={self.gpu!r} and nodes={self.nodes}, which are of GPUs; drop one"
            )
        if self.slices > 1 and not self.tpu:
            raise ValueError(f"slices={self.slices}: are of TPUs; set tpu, or nodes for GPUs")

    def _check_tpu_vm(self):
        for key in ("project", "zone", "tpu"):
            if not getattr(self, key):
                raise ValueError(f"{key}='': must be given for TPU VMs")
        if not self.slice.generation.runtime:
            raise ValueError(f"tpu={self.tpu!r}: the Cloud TPU API does not offer it; use the target jobset")
