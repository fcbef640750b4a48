"""A workdir of an untrained network, and the tokenizer of the tests' token store, for tools that open both."""

import importlib
import types

import jax
import laws
import numpy as np
from conftest import toy_tokens

from pretrain import build
from pretrain.checkpoint import Checkpointer
from pretrain.step import TrainState


class Toy:
    """The tokenizer of the token store of the tests: a patch's mean."""

    def encode(self, images):
        return np.stack([toy_tokens(image) for image in images])

    def decode(self, ids):
        grey = (np.asarray(ids).reshape(-1, 8, 8) // 4).clip(0, 255).astype(np.uint8)
        return grey.repeat(8, 1).repeat(8, 2)[..., None].repeat(3, 3)


def write_run(config, workdir, moved=0.0):
    """A workdir of a run whose parameters are where they started, or all moved by as much."""
    (workdir / "config.json").write_text(build.to_json(config))
    with Checkpointer(workdir) as checkpointer:
        params = jax.tree.map(lambda x: np.asarray(x + np.asarray(moved, x.dtype)), laws.Built(config).params)
        state = TrainState(np.asarray(7, np.int32), params, (), {})
        checkpointer.save(state, types.SimpleNamespace(get_state=dict))


def write_first(system, arg, folder, *, trained=False):
    """What has to be there before a system's run (`configs.systems`), below a folder: the config alone, or with
    parameters as they start out."""
    for workdir, config in getattr(system, "FIRST", {}).get(arg, {}).items():
        (folder / workdir).mkdir(parents=True)
        file, _, given = config.partition(":")
        c = importlib.import_module(file.removesuffix(".py").replace("/", ".")).get_config(given)
        if trained:
            write_run(c, folder / workdir)
        else:
            (folder / workdir / "config.json").write_text(build.to_json(c))
