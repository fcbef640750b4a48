"""python -m pretrain.finetune --config=configs/finetune_x.py --workdir=DIR --config.load=WORKDIR [--config.a.b=value …]

A training like any other (`python -m pretrain`, same step, same checkpoints), whose config need not repeat what the
workdir in `load` knows: the network, and the specs of modalities that it names. What of that model was loaded, is new,
was dropped or resized is printed before the first step.
"""

from absl import app

from pretrain import __main__ as cli
from pretrain.inherit import read


def main(argv):
    cli.check(argv)
    cli.run(read(cli.CONFIG.value, cli.WORKDIR.value))


if __name__ == "__main__":
    app.run(main)
