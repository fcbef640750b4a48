"""python -m pretrain.finetune --config=configs/finetune_x.py --workdir=DIR --config.init=WORKDIR [--config.a.b=value …]

A training like any other (`python -m pretrain`, same step, same checkpoints), whose config need not repeat what the
workdir in `init` knows: the network, and the specs of modalities that it names. What of that model was loaded, is new,
was dropped or resized is printed before the first step.
"""

import json

from absl import app

from pretrain import __main__ as cli
from pretrain import build
from pretrain.restore import read_run
from pretrain.storage import locate


def fill(config: dict, held: build.Run) -> dict:
    """The config with what the pretrained run says of its network and modalities; the config's own keys win.

    A modality of a name that the run has needs no more than that; one of another shape keeps the positions that the
    network learned, interpolated.
    """
    specs, modalities = {m.name: m for m in held.modalities}, []
    for given in config["modalities"]:
        theirs = specs.get(given.get("name"))
        if theirs is None and "kind" not in given:
            raise ValueError(
                f"config.modalities: {given.get('name')!r}: the model in config.init={config['init']!r} has no such "
                f"modality, but {', '.join(specs)}; name one of these, or give a whole spec to add one"
            )
        if theirs is not None:
            known = build.plain(theirs)
            if tuple(given.get("shape", theirs.shape)) != theirs.shape and theirs.grid:
                known["trained_grid"] = theirs.trained_grid or theirs.grid
            given = known | given
        modalities.append(given)
    return config | {"modalities": modalities, "model": held.model | config.get("model", {})}


def read(config, workdir):
    """The filled config: from the workdir itself if a run there has begun, else from `init`."""
    if not config.init:
        raise ValueError("config.init='': fine-tuning starts from a model: give its workdir, --config.init=WORKDIR")
    begun = (locate(workdir) / "config.json").exists()
    filled = fill(config.to_dict(), read_run(workdir if begun else config.init))
    return build.from_json(json.dumps(filled))


def main(argv):
    cli.check(argv)
    cli.run(read(cli.CONFIG.value, cli.WORKDIR.value))


if __name__ == "__main__":
    app.run(main)
