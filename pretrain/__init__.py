"""Tokenloom's trainer: one transformer over many tokenized modalities, in JAX.

import pretrain

run = pretrain.open("runs/quickstart/model")
run.embed("caption", ["a red apple", "a dog"])              # [2, E]
run.generate({"render3d": [picture]}, ["flat", "caption"])  # {"flat": [picture], "caption": [text]}
run.evaluate(["retrieval"])                                 # {score: {"value", "chance", "raw", "untrained"}}
"""


def open(workdir, step: int | None = None):
    """A trained run for use, `pretrain.opened.Opened`. step: of its checkpoints, None for the newest."""
    from pretrain.opened import Opened  # what imports this package for less need not import all of it

    return Opened(workdir, step)
