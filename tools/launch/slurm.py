"""A job script for SLURM: sbatch it from the project's root, with the environment's `python` on PATH."""

import shlex

from tools.launch.job import FINAL, SAVE_SECONDS, Job

BODY = """\
trap : TERM  # SLURM signals the trainer itself; this shell has to outlive it to requeue
# Without --kill-on-bad-exit every task ends by itself and srun returns the highest status: a crash beats an exception
# that it caused. --wait ends those that hang after another one has ended.
srun --cpu-bind=none --wait=600 {command}
code=$?
case $code in
  0) exit 0 ;;
  {final}) echo "exit status $code: an error that would happen again; not requeued" >&2; exit "$code" ;;
esac
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
restarts=${{SLURM_RESTART_COUNT:-0}}
if [[ $state != RUNNING ]]; then
  echo "exit status $code: the job was cancelled, or SLURM requeues it itself" >&2
elif ((restarts >= {max_restarts})); then
  echo "exit status $code after $restarts restarts; not requeued" >&2
else
  echo "exit status $code: requeued, restart $((restarts + 1)) of {max_restarts}" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def render(job: Job) -> str:
    """The job script. What a signal stopped, or a crash, is requeued and goes on from its checkpoint."""
    options = {
        "job-name": job.name,
        "partition": job.partition,
        "account": job.account,
        "time": job.time,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": job.gpus_per_node,
        "output": "%x-%j.log",
    }
    lines = ["#!/usr/bin/env bash", *(f"#SBATCH --{key}={value}" for key, value in options.items() if value)]
    lines += [
        "#SBATCH --exclusive",  # one task would get one core of a shared node
        "#SBATCH --mem=0",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        f"#SBATCH --signal=TERM@{SAVE_SECONDS}",
        "",
        f"# {SAVE_SECONDS} s before the time limit every task gets SIGTERM, saves and ends with 75; preemption signals",
        "# the tasks as well, as early as the partition's GraceTime allows.",
        "#",
        "# One process a node drives all of its GPUs: one data pipeline, one copy of the program. JAX finds the other",
        "# nodes from SLURM's variables, but would take GPU SLURM_LOCALID alone, so it is told which ones to use.",
        f"export JAX_LOCAL_DEVICE_IDS={','.join(str(i) for i in range(job.gpus_per_node))}",
        *(f"export {key}={shlex.quote(value)}" for key, value in job.env),
    ]
    body = BODY.format(
        command=shlex.join(job.command), final=" | ".join(str(code) for code in FINAL), max_restarts=job.max_restarts
    )
    return "\n".join(lines) + "\n" + body
