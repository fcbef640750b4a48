"""What configs share: the check of their argument, their `:tiny` variants, and the specs of pictures and of texts."""

import os

from ml_collections import ConfigDict

HALF = (0.5, 0.5, 0.5)  # pixels in −1…1


def check_arg(arg: str, file: str, choices=("tiny",)):
    """ValueError unless the argument of a config, whose `__file__` this is, is empty or one of the choices."""
    if arg not in ("", *choices):
        raise wrong_arg(arg, file, f"empty or one of {', '.join(choices)}" if choices else "empty")


def wrong_arg(arg: str, file: str, allowed: str) -> ValueError:
    """What is raised of an argument, with those that are allowed."""
    return ValueError(f"{os.path.relpath(file)}:{arg}: the argument must be {allowed}")


def tiny(c: ConfigDict, *, steps=60, batch_size=64, warmup=10, every=30, log=10) -> ConfigDict:
    """Makes a run a minute long, in fp32, which CPUs multiply fastest: evaluated and saved `every` steps."""
    c.update(
        dict(
            steps=steps, batch_size=batch_size, model=dict(dtype="float32"), optim=dict(warmup=warmup),
            log=dict(every=log), checkpoint=dict(every=every), evals=dict(val=dict(every=every)),
        )
    )  # fmt: skip
    return c


def image(size, patch, mean=HALF, std=HALF, name="image", field="image"):
    """The spec of a colour picture cut into patches."""
    return dict(
        name=name, kind="pixels", shape=(size, size, 3), field=field, patch=patch, mean=mean, std=std, targets=False
    )


def text(length, vocab_size=8000, tokenizer="text", name="text", field="caption"):
    """The spec of a text under a tokenizer: `text`, ours, or a `tokenizers` JSON file."""
    return dict(
        name=name, kind="sequence", shape=(length,), field=field, vocab=tokenizer, vocab_size=vocab_size,
        tokenizer=tokenizer,
    )  # fmt: skip
