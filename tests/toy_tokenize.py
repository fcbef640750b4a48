"""`tools.tokenize` with tokenizers that need no training, and as a program that is killed.

toy_tokenize.py KILL… -- ARGUMENTS runs it once for every number KILL, in a process that ends itself without a word at
that record or renaming, and once to its end; prints how each ended.
"""

import os
import signal
import sys

import numpy as np

from data_pipeline.sources import tokens
from data_pipeline.spec import Modality
from tools.tokenize import __main__ as program


class ToyTokenizer:
    """8 × 8 images of C channels → a 2 × 2 grid of the means of their patches, in `vocab_size` steps."""

    grid, chunk = (2, 2), 0

    def __init__(self, workdir):
        self.digest = f"digest of {workdir}"
        self.vocab_size = 256 if "rgb" in str(workdir) else 1000
        # As of a quantizer with several books, the grey one has no codes.
        self.codes = np.arange(256, dtype=np.float32)[:, None] if self.vocab_size == 256 else None

    def encode(self, images):
        means = images.reshape(-1, 2, 4, 2, 4, images.shape[-1]).mean((2, 4, 5)).reshape(-1, 4)
        return (means * (self.vocab_size / 256)).astype(np.int64)


def read_run(workdir):
    rgb = (Modality("rgb", "pixels", (8, 8, 3), "image"), Modality("flat", "pixels", (8, 8, 3), "flat"))
    grey = (Modality("mask", "pixels", (8, 8, 1), "mask", resample="nearest", vocab_size=9),)
    return type("Run", (), {"modalities": rgb if "rgb" in str(workdir) else grey})


def contents(folder) -> dict[str, bytes]:
    """Every file below it."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def install(setattr=setattr):
    setattr(program, "load_tokenizer", ToyTokenizer)
    setattr(program, "read_run", read_run)


def kill_at(call: int):
    """This process ends at the call-th record or renaming."""
    left = [call]

    def counted(function):
        def wrapped(*args):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return wrapped

    tokens.encode_record, os.replace = counted(tokens.encode_record), counted(os.replace)


def main():
    at = sys.argv.index("--")
    kills, sys.argv = sys.argv[1:at], ["tokenize", *sys.argv[at + 1 :]]
    install()
    for kill in [*map(int, kills), None]:
        child = os.fork()
        if not child:
            if kill is not None:
                kill_at(kill)
            program.main()
            sys.stdout.flush()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
