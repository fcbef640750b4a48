"""python -m pretrain --config=configs/x.py[:arg] --workdir=DIR [--config.a.b=value …]"""

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "What to run: configs/FILE.py or configs/FILE.py:argument.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and the config go; the same again resumes.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; config keys are set as --config.key=value")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells of every file; `--verbosity=0` shows it
    from pretrain.train import train

    train(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    app.run(main)
