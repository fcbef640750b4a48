"""What the config of a run need not say, since the run that it starts from knows it."""

import json

from pretrain import build
from pretrain.initialize import as_loads
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
                f"config.modalities: {given.get('name')!r}: the model in config.load={config['load']!r} has no such "
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
    """The filled config: from the workdir itself if a run there has begun, else from the first whole network that it
    loads."""
    values = config.to_dict()
    whole = [given["workdir"] for given in as_loads(values.get("load", "")) if not given.get("parts")]
    if not whole:
        raise ValueError("config.load=[]: fine-tuning starts from a model: give its workdir, --config.load=WORKDIR")
    begun = (locate(workdir) / "config.json").exists()
    filled = fill(values, build.read_run(workdir if begun else whole[0]))
    return build.from_json(json.dumps(filled))
