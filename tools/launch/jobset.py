"""A JobSet manifest for Kubernetes (jobset.sigs.k8s.io, 0.8 or newer), as JSON, which kubectl reads as it does YAML.

A run on TPUs is for GKE: a replica for every slice, a pod for every host; JAX learns its place from what GKE sets
(TPU_WORKER_ID, TPU_WORKER_HOSTNAMES and, for several slices, MEGASCALE_*). On GPUs, anywhere, every pod is told its
place by the trainer's flags: finding it through the API server would need rights that a default service account lacks.
"""

import json

from tools.launch.job import FINAL, SAVE_SECONDS, Job

WORKER = "worker"
TRAINER = "trainer"
PORT = 8476
INIT_SECONDS = 1800  # pods of one run start minutes apart: nodes are added, images pulled


def render(job: Job) -> str:
    """The manifest."""
    hosts = job.slice.hosts if job.tpu else job.nodes
    rule = dict(action="FailJob", onExitCodes=dict(containerName=TRAINER, operator="In", values=list(FINAL)))
    pods = dict(
        completionMode="Indexed",
        completions=hosts,
        parallelism=hosts,
        backoffLimit=0,  # any pod that fails fails its Job: the hosts of one run can only start again together
        podFailurePolicy=dict(rules=[rule]),
        template=dict(spec=pod(job)),
    )
    spec = dict(
        network=dict(enableDNSHostnames=True),
        failurePolicy=dict(
            maxRestarts=job.max_restarts,
            # The pods of the last try must be gone, else two trainers would write one checkpoint.
            restartStrategy="BlockingRecreate",
            rules=[dict(name="wouldHappenAgain", action="FailJobSet", onJobFailureReasons=["PodFailurePolicy"])],
        ),
        replicatedJobs=[dict(name=WORKER, replicas=job.slices, template=dict(spec=pods))],
    )
    metadata = dict(name=job.name)
    if job.tpu:  # a slice is a node pool
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    manifest = dict(apiVersion="jobset.x-k8s.io/v1alpha2", kind="JobSet", metadata=metadata, spec=spec)
    return json.dumps(manifest, indent=2) + "\n"


def pod(job: Job) -> dict:
    """The pod of one host."""
    container = dict(
        name=TRAINER,
        image=job.image,
        command=[_literal(word) for word in job.command] + place(job),  # no shell: signals reach the trainer
        env=[dict(name=key, value=_literal(value)) for key, value in environment(job)],
        resources=dict(limits=devices(job)),
        volumeMounts=[dict(name="shm", mountPath="/dev/shm")],
    )
    spec = dict(
        restartPolicy="Never",
        terminationGracePeriodSeconds=SAVE_SECONDS,
        nodeSelector=node_labels(job),
        containers=[container],
        # The default of 64 MiB is too little for the data workers and for NCCL.
        volumes=[dict(name="shm", emptyDir=dict(medium="Memory"))],
    )
    if job.volume:
        container["volumeMounts"].append(dict(name="shared", mountPath=job.mount))
        claim = dict(claimName=job.volume.partition(":")[0])
        spec["volumes"].append(dict(name="shared", persistentVolumeClaim=claim))
    if job.tpu:  # slices talk over the hosts' own network
        spec |= dict(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")
    return spec


def place(job: Job) -> list[str]:
    """The flags that tell a pod its place among the others."""
    flags = [f"--init_timeout={INIT_SECONDS}"]
    if not job.tpu:
        flags += [
            f"--coordinator={job.name}-{WORKER}-0-0.{job.name}:{PORT}",
            f"--processes={job.nodes}",
            "--process_id=$(JOB_COMPLETION_INDEX)",  # filled in by Kubernetes
        ]
    return flags


def environment(job: Job) -> list[tuple[str, str]]:
    # With its devices named too, JAX asks no cluster for anything.
    ours = [] if job.tpu else [("JAX_LOCAL_DEVICE_IDS", ",".join(str(i) for i in range(job.gpus_per_node)))]
    return ours + list(job.env)


def devices(job: Job) -> dict:
    return {"google.com/tpu": job.slice.chips_per_host} if job.tpu else {"nvidia.com/gpu": job.gpus_per_node}


def node_labels(job: Job) -> dict:
    labels = {}
    if job.tpu:
        labels["cloud.google.com/gke-tpu-accelerator"] = job.slice.generation.gke
        labels["cloud.google.com/gke-tpu-topology"] = job.slice.shape
    elif job.gpu:
        labels["cloud.google.com/gke-accelerator"] = job.gpu
    if job.spot:
        labels["cloud.google.com/gke-spot"] = "true"
    return labels


def _literal(text: str) -> str:
    """Kubernetes would expand `$(NAME)`, and reads `$$` as `$`."""
    return text.replace("$", "$$")
