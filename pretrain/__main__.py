"""python -m pretrain --config=configs/x.py[:arg] --workdir=DIR [--config.a.b=value …]

Exit status 75: a signal stopped the run before its end; the same command continues it.
"""

import os
import sys

from absl import app, flags, logging

from pretrain import config_flag

CONFIG = config_flag.define("What to run: configs/FILE.py or configs/FILE.py:argument.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and the config go; the same again resumes.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where no cluster tells of it.")
PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes run together.")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0.")
INIT_TIMEOUT = flags.DEFINE_integer("init_timeout", 300, "Seconds to wait for the other processes.")
EXECUTABLE = flags.DEFINE_string(
    "executable", "", "FILE@SHA256 of a step compiled by `python -m tools.plan --save`, which runs whatever is in it."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
    check(argv)
    run(CONFIG.value)


def check(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; config keys are set as --config.key=value")


def run(config):
    """Trains, in one of several processes if the flags say so; exits with `runtime.STOPPED` if a signal stopped it."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells of every file; `--verbosity=0` shows it
    from pretrain import runtime
    from pretrain.dtype import settle
    from pretrain.phases import train_phases
    from pretrain.train import train

    runtime.join(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value, INIT_TIMEOUT.value)
    workdir = os.path.expanduser(WORKDIR.value)
    config = settle(config, workdir)
    if "phases" in config:
        if EXECUTABLE.value:
            raise app.UsageError("--executable: it is one step, and the phases of this config have one each")
        finished = train_phases(config, workdir)
    else:
        finished = int(train(config, workdir, EXECUTABLE.value).step) >= config.steps
    if not finished:
        sys.exit(runtime.STOPPED)


if __name__ == "__main__":
    app.run(main)
