"""A bash script that trains on TPU VMs: queued resources of the Cloud TPU API, reached over ssh.

It runs where you are (in tmux, say) until the run has ended, from a checkout's root: it sends the commit that is
checked out. It needs gcloud, git and, for more than one host, the key in an ssh agent:
`ssh-add ~/.ssh/google_compute_engine`. Ended and started again, it goes on.
"""

import shlex

from tools.launch.job import FINAL, Job

FAILED = 65  # what the hosts return for FINAL, since gcloud itself ends with 1 when it cannot reach them

SETUP = """\
set -e
cd "$HOME"
if pkill --pidfile {name}.pid --full pretrain 2>/dev/null; then  # of an earlier connection: it saves and ends
  timeout 300 bash -c 'while pgrep --pidfile {name}.pid --full pretrain >/dev/null; do sleep 1; done'
fi
rm -rf {name}
mkdir {name}
tar -xzf {name}.tgz -C {name}
cd {name}
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python --constraint constraints.txt \\
  --editable '.[tpu]' 'etils[epath-gcs]'
"""

TRAIN = """\
cd "$HOME/{name}" || exit
export PATH="$PWD/.venv/bin:$PATH"
{exports}{command} &
echo $! >"$HOME/{name}.pid"
wait $!
code=$?
case $code in
  {final}) exit {failed} ;;
esac
exit $code
"""

BODY = r"""
poll=${POLL_SECONDS:-30}

queued() { gcloud compute tpus queued-resources "$1" "${where[@]}" "${@:2}"; }
# All at once: in batches, the first would wait for the rest to join.
everywhere() { queued "$1" --node=all --worker=all --batch-size=all "${@:2}"; }
state() { queued list --filter="name ~ /$name\$" --format='value(state.state)' || echo UNKNOWN; }

wait_until_active() {
  local deadline=$((SECONDS + wait_seconds)) now before=none
  while ((SECONDS < deadline)); do
    now=$(state)
    [[ $now == "$before" ]] || echo "$name: ${now:-not there yet}" >&2
    before=$now
    case $now in
      ACTIVE) return 0 ;;
      "") queued create "$name" --async "${create[@]}" || return 1 ;;
      SUSPENDED | FAILED) queued delete "$name" --force --quiet ;;
    esac
    sleep "$poll"
  done
  echo "$name: not active within $wait_seconds s" >&2
  return 1
}

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD || exit 1
git diff --quiet HEAD || echo "changes that are not committed are not sent" >&2

for ((try = 0; try <= max_restarts; try++)); do
  ((try == 0)) || sleep "$poll"
  wait_until_active || exit 1
  everywhere scp "$archive" "$name:$name.tgz" && everywhere ssh "$name" --command="$setup" \
    && everywhere ssh "$name" --command="$train"
  code=$?
  case $code in
    0)
      echo "$name: done" >&2
      queued delete "$name" --force --quiet
      exit
      ;;
    "$failed")
      echo "$name: an error that would happen again. Mend it and run this again, or give the TPUs back:" >&2
      echo "gcloud compute tpus queued-resources delete $name ${where[*]} --force" >&2
      exit "$code"
      ;;
  esac
  echo "$name: exit status $code, try $((try + 1)) of $((max_restarts + 1))" >&2
done
echo "$name: given up; give the TPUs back:" >&2
echo "gcloud compute tpus queued-resources delete $name ${where[*]} --force" >&2
exit "$code"
"""


def render(job: Job) -> str:
    """The script: get the slices, send the project, train; again if they were taken away, until done."""
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in job.env)
    final = " | ".join(str(code) for code in FINAL)
    setup = SETUP.format(name=job.name)
    train = TRAIN.format(
        name=job.name, exports=exports, command=shlex.join(job.command), final=final, failed=FAILED
    )  # fmt: skip
    nodes = (
        [f"--node-id={job.name}"] if job.slices == 1 else [f"--node-count={job.slices}", f"--node-prefix={job.name}"]
    )
    create = [
        f"--accelerator-type={job.slice.accelerator_type}",
        f"--runtime-version={job.slice.generation.runtime}",
        *nodes,
        *(["--spot"] if job.spot else []),
    ]
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            "set -uo pipefail",
            f"name={job.name}",
            f"where=({shlex.join([f'--project={job.project}', f'--zone={job.zone}'])})",
            f"create=({shlex.join(create)})",
            f"max_restarts={job.max_restarts}",
            f"wait_seconds={job.wait_hours * 3600}",
            f"failed={FAILED}",
            f"setup={shlex.quote(setup)}",
            f"train={shlex.quote(train)}",
            BODY,
        ]
    )
