"""tokenloom COMMAND …: what `python -m MODULE …` does, with the same flags, from anywhere.

A config may be given by itself, as a file or by the name of one that comes with the project:
`tokenloom train emoji:tiny --workdir=runs/emoji` is `python -m pretrain --config=emoji:tiny --workdir=runs/emoji`.
"""

import runpy
import sys

COMMANDS = {
    "start": ("tools.start", "look at a folder of pictures and texts, and write a config that trains on them"),
    "train": ("pretrain", "train, or go on where a run stopped"),
    "finetune": ("pretrain.finetune", "train on from a checkpoint on a task"),
    "show": ("tools.show", "what a run is, how far it is, its scores, and what can be done with it"),
    "evals": ("pretrain.evals", "judge checkpoints by transfer tasks"),
    "report": ("tools.report", "a page of a run's curves, scores and pictures"),
    "playground": ("tools.playground", "a local page that shows what a model makes of what one draws or types"),
    "tokenize": ("tools.tokenize", "raw examples into a token store"),
    "train-text-tokenizer": ("tools.train_text_tokenizer", "a text tokenizer of one's own texts"),
    "prepare": ("tools.prepare", "raw data into clean tars, by Apache Beam"),
    "store": ("tools.store", "check or export a token store"),
    "average": ("tools.average", "the mean of what several runs learned, as one to start from"),
    "convert": ("tools.convert", "models of 4M and of transformers, in and out"),
    "export": ("tools.export", "weights and a module for PyTorch"),
    "plan": ("tools.plan", "what a run needs on a pod, and how long it takes by the compilers' clock"),
    "launch": ("tools.launch", "start a run on SLURM, Kubernetes or TPU VMs"),
}
BY_CONFIG = ("train", "finetune", "plan")


def main(argv: list[str] | None = None):
    """Runs a command; SystemExit with the list of them if there is none of that name."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name not in COMMANDS:
        width = max(map(len, COMMANDS))
        listed = "\n".join(f"  {command:{width}}  {does}" for command, (_, does) in COMMANDS.items())
        text = f"{__doc__}\n{listed}\n\n`tokenloom COMMAND --help` tells the flags of one."
        if name in ("", "help", "-h", "--help"):
            print(text)
            return
        sys.exit(f"tokenloom: there is no command {name!r}\n\n{text}")
    if name in BY_CONFIG and rest and not rest[0].startswith("-"):
        rest[0] = f"--config={rest[0]}"
    module, _ = COMMANDS[name]
    sys.argv = [f"tokenloom {name}", *rest]  # what the program calls itself
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
